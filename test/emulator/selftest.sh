#!/usr/bin/env bash
# Checks the emulator against the samples and failure tables of the vendor's
# document, and that each fault does what README.md says.  Needs curl.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
passed=0
failed=0
"$here/kapture-emulator" --port-file "$work/port" "$@" >"$work/log" 2>&1 &
pid=$!
trap 'kill $pid; rm -rf "$work"' EXIT
until [ -s "$work/port" ]; do kill -0 $pid || exit 1; done
url=http://127.0.0.1:$(cat "$work/port")
key=a2FwZGVtbzprYXAxMjM=

add=add-update-customer-from-other-source.html
get=search-customer-by-customer-id.html
pull=select-customer-between-start-and-end-dates.html

# post PATH BODY [curl option]...: the answer, then a line with the HTTP code
post() {
	local path=$1 body=$2
	shift 2
	curl -s -m 5 -w '\n%{http_code}' -H "Authorization: Basic $key" -H 'Content-Type: application/json' \
		-d "$body" "$@" "$url/$path"
}
admin() { curl -s "$url/_emulator/$1" ${2:+-d "$2"}; }

# check NAME PATTERN ANSWER: the answer, its line breaks shown as |, must match
check() {
	if [[ $(printf %s "$3" | tr '\n' '|') =~ $2 ]]; then
		passed=$((passed + 1))
		echo "ok - $1"
	else
		failed=$((failed + 1))
		echo "not ok - $1: $3"
	fi
}

check 'the sample of Add' '"kapture_customer_id":65033646.*"contact_id":71186613.*"message":"validation successfull","status":"success"}\|200' \
	"$(post $add '{"customer_name": "Qwera", "phone": "9874563725", "email_id": "Qwer1234@gmail.com", "country": "India", "kapture_customer_id": "", "contact_id": "", "gender": "M"}')"
check 'no name' 'Name and \(Phone Number or Email Id\) are required fields", "status": "failed"}\|400' "$(post $add '{"phone": "9874563726"}')"
check 'neither phone nor email' 'Name and \(Phone.*\|400' "$(post $add '{"customer_name": "A"}')"
check 'email alone will do' '"status":"success"}\|200' "$(post $add '{"customer_name": "A", "email_id": "a@b.in"}')"
check 'invalid email' '"Invalid email id\.".*\|400' "$(post $add '{"customer_name": "A", "email_id": "a.b.in"}')"
check 'phone too short' '"Invalid phone number,\|number must contain 10 digits and must start from 6 or above", "status": "failed"}\|400' \
	"$(post $add '{"customer_name": "A", "phone": "987456372"}')"
check 'phone begins with 5' 'Invalid phone number.*\|400' "$(post $add '{"customer_name": "A", "phone": "5874563725"}')"
check 'phone twice' '"This mobile number already exists\. Please enter a new one\.".*\|400' "$(post $add '{"customer_name": "A", "phone": "9874563725"}')"
check 'email twice, in other case' '"This email-id\|already exists\. Please enter a new one\.".*\|400' "$(post $add '{"customer_name": "A", "email_id": "qWER1234@gmail.com"}')"
check 'both twice' '" ,Both email and mobile number already exist\. Please enter new details\.".*\|400' \
	"$(post $add '{"customer_name": "A", "phone": "9874563725", "email_id": "Qwer1234@gmail.com"}')"
check 'wrong key' '\{"message": "Invalid Auth Key", "status": "failed"}\|401' "$(key=wrong post $add '{}')"
check 'no JSON' '400$' "$(post $add '{"customer_name": ')"
check 'Add wants no array' '"Bad Request".*400' "$(post $add '[{"customer_name": "A", "phone": "9874563799"}]')"

check 'the sample of Update' '"customer_name":"Qweraa","phone":"","email_id":"","kapture_customer_id":65033646.*"contact_id":0.*\|200' \
	"$(post $add '{"customer_name": "Qweraa", "phone": "", "email_id": "", "kapture_customer_id": "65033646"}')"
check 'empty strings leave what is there' '"name":"Qweraa","companyPhone":"9874563725"' "$(post $get '[{"kapture_customer_id": "65033646"}]')"
check 'Update of nobody' '400$' "$(post $add '{"customer_name": "A", "kapture_customer_id": "1"}')"
check 'Update to a taken email' 'already exists.*400' "$(post $add '{"email_id": "nisch123@gmail.com", "kapture_customer_id": "65033646"}')"
check 'Update to its own phone' 'success.*200' "$(post $add '{"phone": "9874563725", "kapture_customer_id": "65033646"}')"

check 'the sample of Get' '"Customer Details":\{"id":61371820.*"generationDate":"Jan 6, 2021 6:01:45 PM".*"month":0,.*"maxCreditAmt":0\.0.*\|200' \
	"$(post $get '[{"kapture_customer_id": "61371820", "customer_id": "", "email_id": "nisch123@gmail.com", "phone": "9845765226"}]')"
check 'Get of nobody' '\{"Customer Details": "Information given by you does not exist in our sytsem\.", "status": "failed"}\|200' "$(post $get '[{"phone": "6000000000"}]')"
check 'criteria that contradict each other' 'does not exist.*200' "$(post $get '[{"kapture_customer_id": "61371820", "phone": "9874563725"}]')"
check 'Get wants an array' '400$' "$(post $get '{"phone": "9845765226"}')"

check 'the sample of Pull, raw line breaks and all' '"id":65245,.*"generationDate":"Mar 14, 2021 2:21:11 PM".*"remarks":"\|NAME Ker\|.*"month":2.*"status":"success"}\|200' \
	"$(post $pull '[{"start_date": "2021-03-14", "end_date": "2021-03-14"}]')"
check 'Pull with times' '"id":65245' "$(post $pull '[{"start_date": "2021-03-14 14:21:11", "end_date": "2021-03-14 14:21:11"}]')"
check 'Pull of nobody' '\{"message": "No customer between dates\.", "status": "failed"}\|200' "$(post $pull '[{"start_date": "2020-03-14", "end_date": "2020-03-14"}]')"
check 'Pull without dates' 'No customer between dates.*200' "$(post $pull '[{}]')"
check 'Pull of bad dates' 'No customer between dates.*200' "$(post $pull '[{"start_date": "2021-02-30", "end_date": "2021-03-30"}]')"

tickets=v.2.0
added=$(post "add-ticket-from-other-source.html/$tickets" '[{"title": "Payment failed", "phone": "9845765226", "queue": {"any": [1]}}]')
check 'a ticket' '^\{"ticket_id": "[0-9]{10,16}", "ticket": \{.*"title": "Payment failed".*"status": "success"\}\|200' "$added"
ticket=$(grep -o '"ticket_id": "[0-9]*"' <<<"$added" | grep -o '[0-9]*')
check 'a ticket without a title' 'title is mandatory.*\|400' "$(post "add-ticket-from-other-source.html/$tickets" '[{}]')"
check 'a ticket that is wrapped wrongly' '"Invalid Json\.".*"failed".*\|200' "$(post "add-ticket-from-other-source.html/$tickets" '{"title": "A"}')"
check 'update of a ticket' 'Updated.*success.*\|200' "$(post "update-ticket-from-other-source.html/$tickets" "[{\"ticket_id\": \"$ticket\", \"comment\": \"paid\"}]")"
check 'update of no ticket' 'does not exist.*failed.*\|200' "$(post "update-ticket-from-other-source.html/$tickets" '[{"ticket_id": "1"}]')"
check 'tickets by number: a bare array' '^\[\{"ticketId": "[0-9]+".*"comment": "paid"\}\]\|200' "$(post "search-ticket-by-ticket-id.html/$tickets" "{\"ticket_ids\": \"1,$ticket\"}")"
check 'no ticket by number' '^\[\]\|200' "$(post "search-ticket-by-ticket-id.html/$tickets" '{"ticket_ids": "1"}')"
today=$(TZ=Asia/Kolkata date +%F)
check 'one ticket of a day: an object' '^\{"message": \{"ticketId".*"status": "success"\}\|200' "$(post "select-ticket-between-start-and-end-dates.html/$tickets" "[{\"start_date\": \"$today\", \"end_date\": \"$today\"}]")"
post "add-ticket-from-other-source.html/$tickets" '[{"title": "Another"}]' >/dev/null
check 'two tickets of a day: an array' '^\{"message": \[\{"ticketId".*\], "status": "success"\}\|200' "$(post "select-ticket-between-start-and-end-dates.html/$tickets" "[{\"start_date\": \"$today\", \"end_date\": \"$today\"}]")"
check 'no ticket of a day: a text' '^\{"message": "No ticket.*failed' "$(post "select-ticket-between-start-and-end-dates.html/$tickets" '[{"start_date": "2020-01-01", "end_date": "2020-01-01"}]')"
check 'an order: its id twice' '^\[\{"Order Id": "[0-9]+", "order_id": "[0-9]+".*\|200' "$(post add-update-order-from-other-source.html '[{"items": []}]')"
check 'an order of the newer API' '^\{"order_id": [0-9]+.*\|200' "$(post ms/customer/order/api/v1/add-update '{"items": []}')"
check 'an enquiry of somebody who is known: the ids are in the text' 'Customer ID :61371820, Enquiry ID :[0-9]+, Contact ID : [0-9]+.*\|200' "$(post add-update-enquiry-from-other-source.html '[{"customer_name": "N", "phone": "9845765226"}]')"
check 'a product' 'product_id.*\|200' "$(post add-update-product-from-other-source.html '[{"name": "P"}]')"
check 'FAQs' 'faqs.*\|200' "$(post get-faq-contents.html '[{"category_id": 1}]')"
check 'categories of FAQs: a bare array' '^\[\{"id".*\|200' "$(post get-all-faq-categories.html '[{}]')"
check 'what the modules keep' '^\[\{"api": "ticket_add", "id": "[0-9]+", "updates": 1, "body": \{.*"product_add"' "$(admin items)"

check 'another method' '405' "$(curl -s -o /dev/null -w '%{http_code}' "$url/$add")"
check 'another path' '404$' "$(post nowhere '{}')"
check 'counters' '"customers": 4.*"adds": 2, "updates": 2.*"duplicate_refusals": 4, "unauthorized": 1,' "$(admin stats)"
check 'the log' '"api": "add", "code": 200, "success": true, "id": 65033646.*"headers": \{.*"Content-Type": "application/json".*"body": ".*Qwera' "$(admin log)"
check 'the log has no key' '^[^:]*$' "$(admin log | grep -c "$key" | grep -vx 0)"
check 'the log from a number on' '^\[\{"n": 5,' "$(admin log?since=5)"
check 'one customer' '^\[\{"kapture_customer_id": 65033646.*"updates": 2' "$(admin customers?id=65033646)"

# fault ACTION: what a request under it meets; then, whether it was done
fault() {
	admin faults "[{\"action\": \"$1\", \"count\": 1${2:+, $2}}]" >/dev/null
	post $add "{\"customer_name\": \"F\", \"email_id\": \"$1@fault.in\"}"
	echo " curl $?"
}
was_done() { post $get "[{\"email_id\": \"$1@fault.in\"}]" | grep -c '"Customer Details":{'; }

check 'delay' '200 curl 0' "$(fault delay '"ms": 20')"
check 'status' 'busy\|503 curl 0' "$(fault status '"code": 503, "body": "busy", "headers": {"Retry-After": "1"}')"
check 'status does nothing' '0' "$(was_done status)"
check 'drop_before' '000 curl 52' "$(fault drop_before)"
check 'drop_before does nothing' '0' "$(was_done drop_before)"
check 'drop_after' '000 curl 52' "$(fault drop_after)"
check 'drop_after does it' '1' "$(was_done drop_after)"
check 'truncate' '200 curl 18' "$(fault truncate)"
check 'truncate does it' '1' "$(was_done truncate)"
check 'garbage' 'nonsense.*200' "$(fault garbage | tr -d '\000-\011\177-\377')"
check 'html' '<html>.*200' "$(fault html)"
check 'redirect' '302' "$(fault redirect)"
check 'redirect does nothing' '0' "$(was_done redirect)"
check 'flat_answer' '"Kapture Customer Id": "[0-9]+", "Status": "Success"}\|200' "$(fault flat_answer)"
check 'instead' '^not yours\|200 curl 0' "$(fault instead '"body": "not yours"')"
check 'instead does it' '1' "$(was_done instead)"
check 'bom' '^efbbbf7b22' "$(fault bom | head -c 5 | od -An -tx1 | tr -d ' ')"
admin faults '[{"action": "gzip", "count": 2}]' >/dev/null
check 'gzip' '^\{"Enquiry".*"status":"success"\}$' "$(post $add '{"customer_name": "F", "email_id": "gzip@fault.in"}' -w '' | gunzip)"
check 'gzip says so' '"Customer Details".*"status":"success"\}\|200' "$(post $get '[{"email_id": "gzip@fault.in"}]' --compressed)"
check 'a Date that is off' '^Date: Thu, 01 Jan 1970 00:00:00 GMT' \
	"$(admin faults '[{"action": "status", "count": 1, "headers": {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}}]' >/dev/null; post $get '[{}]' -D - -o /dev/null | grep '^Date')"
# an answer and then another one, on a connection that is left open
admin faults '[{"action": "unasked", "count": 1, "ms": 20, "body": "not asked for"}]' >/dev/null
exec 3<>"/dev/tcp/127.0.0.1/${url##*:}"
printf 'POST /%s HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: 2\r\n\r\n[]' "$get" "$key" >&3
said=
while [[ $said != *'not asked for' ]] && IFS= read -r -t 5 -n 1 -d '' c <&3; do said+=${c:-}; done
exec 3>&-
check 'unasked' 'HTTP/1\.1 400.*Bad Request.*HTTP/1\.1 200 OK.*not asked for$' "$said"
check 'late' 'success.*200' "$(fault late '"ms": 20')"
check 'gateway' '502 curl 0' "$(fault gateway '"ms": 300')"
check 'gateway does nothing yet' '"in_flight": 1' "$(admin stats)"
for _ in $(seq 100); do [[ $(admin stats) == *'"in_flight": 0'* ]] && break; read -rt 0.05 <> <(:) || true; done
check 'gateway does it' '1' "$(was_done gateway)"
check 'hang' '000 curl 28' "$(admin faults '[{"action": "hang", "count": 1}]' >/dev/null; post $add '{"customer_name": "H", "email_id": "hang@fault.in"}' -m 0.2; echo " curl $?")"
admin faults '[{"action": "endless", "count": 1}]' >/dev/null
check 'endless' '^[0-9]{6,}$' "$(post $add '{"customer_name": "E", "email_id": "endless@fault.in"}' | head -c 1000000 | wc -c)"
admin faults '[{"api": "get", "action": "not_found", "skip": 1, "count": 1}]' >/dev/null
check 'skip' '"id":61371820' "$(post $get '[{"phone": "9845765226"}]')"
check 'not_found' 'does not exist' "$(post $get '[{"phone": "9845765226"}]')"
check 'count' '"id":61371820' "$(post $get '[{"phone": "9845765226"}]')"
check 'a bad rule is refused' 'unknown action' "$(admin faults '[{"action": "explode"}]')"

admin keys '{"get": "another"}' >/dev/null
check 'a key of its own' '401$' "$(post $get '[{"phone": "9845765226"}]')"
check 'for that API alone' '400$' "$(post $add '{"customer_name": "A"}')"
admin keys "{\"all\": \"$key\"}" >/dev/null
admin seed '[{"kapture_customer_id": 7, "customer_name": "Seven", "phone": "9000000007", "generated": "2022-01-01 00:00:00"}]' >/dev/null
check 'seeding one' '"id":7,.*Jan 1, 2022 12:00:00 AM' "$(post $get '[{"phone": "9000000007"}]')"
admin seed '{"count": 100, "from": "2023-05-01", "to": "2023-05-02"}' >/dev/null
check 'seeding many' '^100$' "$(post $pull '[{"start_date": "2023-05-01", "end_date": "2023-05-02"}]' | grep -o '"totalNoOfEnquiries"' | wc -l)"
admin reset x >/dev/null
curl -s -X POST "$url/_emulator/reset" >/dev/null
check 'reset' '"customers": 2, "requests": 0' "$(admin stats)"

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
