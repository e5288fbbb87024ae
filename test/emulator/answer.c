/*
 * answer.c
 *		The shapes of Kapture's answers.
 *
 * They follow the samples in the vendor's document to the last field, odd
 * ones included: months from 0, times printed in two ways, numbers as 0 and
 * as 0.0, flags as false and as "false", raw line breaks inside of strings.
 */
#include "answer.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"

static const CustomerExtra ordinary = {
	.current_status = "N",
	.creator_name = ""
};

/* Answers with a text as it stands. */
void
answer_plain(Reply *reply, int code, const char *content_type, const char *body)
{
	reply->code = code;
	reply->content_type = content_type;
	reply->success = false;
	reply->body.len = 0;
	buf_puts(&reply->body, body);
}

void
answer_failed(Reply *reply, int code, const char *message)
{
	answer_plain(reply, code, TYPE_JSON, "{\"message\": ");
	buf_json(&reply->body, message);
	buf_puts(&reply->body, ", \"status\": \"failed\"}");
}

static void
begin_success(Reply *reply, const char *body)
{
	answer_plain(reply, 200, TYPE_JSON, body);
	reply->success = true;
}

static void
put_text(Buf *buf, const char *name, const char *value)
{
	buf_puts(buf, ",\"");
	buf_puts(buf, name);
	buf_puts(buf, "\":");
	buf_json(buf, value);
}

static void
put_number(Buf *buf, const char *name, int64_t value)
{
	buf_puts(buf, ",\"");
	buf_puts(buf, name);
	buf_puts(buf, "\":");
	buf_int(buf, value);
}

/* Echoes the given ones of a run of fields. */
static void
put_fields(Buf *buf, const FieldValues *values, Field first, Field last)
{
	for (int i = (int) first; i <= (int) last; i++)
		if (values->value[i] != NULL)
			put_text(buf, field_names[i], values->value[i]);
}

/* Add and Update: what was sent, and the id. */
void
answer_enquiry(Reply *reply, const FieldValues *values, int64_t id, int64_t contact_id)
{
	Buf		   *buf = &reply->body;

	begin_success(reply, "");
	buf_reserve(buf, 1400);
	buf_puts(buf, "{\"Enquiry\":{\"cmId\":2469,\"enquiry_id\":0");
	put_fields(buf, values, FIELD_NAME, FIELD_COUNTRY);
	put_number(buf, "kapture_customer_id", id);
	put_fields(buf, values, FIELD_ZONE, FIELD_TERT_SOURCE);
	buf_puts(buf, ",\"disposition_id\":0");
	put_fields(buf, values, FIELD_COUNTRY_CODE, FIELD_COUNTRY_CODE);
	buf_puts(buf, ",\"age\":0,\"kapture_profile_id\":0");
	put_fields(buf, values, FIELD_CONTACT_NAME, FIELD_GENDER);
	put_number(buf, "contact_id", contact_id);
	buf_puts(buf, ",\"reference_id\":0,\"action_update\":false,\"product_update\":false"
			 ",\"enquiry_details_update\":false,\"individual\":false,\"organization\":false"
			 ",\"channel_partner\":false,\"orderId\":0,\"referral_id\":0,\"channel_partner_id\":0"
			 ",\"order_detail_associate_object\":false,\"customer_detail_associate_object\":false"
			 ",\"update_enquiry_for_existing_customer\":false,\"new_contact_for_existing_customer\":false"
			 ",\"productList\":[]},\"message\":\"validation successfull\",\"status\":\"success\"}");
	reply->id = id;
}

/* The other shape that some accounts see instead. */
void
answer_flat(Reply *reply)
{
	begin_success(reply, "{\"Message\": \"validation successfull\", \"Kapture Customer Id\": \"");
	buf_int(&reply->body, reply->id);
	buf_puts(&reply->body, "\", \"Status\": \"Success\"}");
}

static const char *
or_blank(const char *gender)
{
	return *gender ? gender : " ";
}

static void
put_image_reference(Buf *buf, const Customer *customer, const CustomerExtra *extra)
{
	buf_puts(buf, ",\"imageReferenceId\":\"");
	if (extra->image_reference != NULL)
		buf_puts(buf, extra->image_reference);
	else
	{
		buf_puts(buf, "CUS_");
		clock_plain(buf, customer->generated);
		buf_printf(buf, ".%03d", customer->milliseconds);
	}
	buf_puts(buf, "\"");
}

static void
put_printed_date(Buf *buf, const char *name, time_t moment)
{
	buf_printf(buf, ",\"%s\":\"", name);
	clock_printed(buf, moment);
	buf_puts(buf, "\"");
}

static void
put_calendar(Buf *buf, const char *name, time_t moment)
{
	buf_printf(buf, ",\"%s\":", name);
	clock_calendar(buf, moment);
}

/*
 * The contact of Get.  The customer's own phone and email are the contact's
 * too, unless the contact has its own.
 */
static void
put_get_contact(Buf *buf, const Customer *customer, const CustomerExtra *extra, const char **value)
{
	const char *phone = value[FIELD_CONTACT_PHONE];
	const char *email = value[FIELD_EMAIL];

	if (extra->bare_contact)
		email = value[FIELD_CONTACT_EMAIL];
	else if (*phone == '\0')
		phone = value[FIELD_PHONE];
	buf_puts(buf, ",\"contacts\":[{\"id\":");
	buf_int(buf, customer->contact_id);
	put_number(buf, "cmId", 2469);
	put_number(buf, "leadId", customer->id);
	put_text(buf, "title", "");
	put_text(buf, "contactPerson", value[FIELD_CONTACT_NAME]);
	put_text(buf, "designation", "");
	put_text(buf, "gender", or_blank(value[FIELD_GENDER]));
	put_text(buf, "phone", phone);
	put_text(buf, "additionalPhone", value[FIELD_ADDITIONAL_PHONE]);
	put_text(buf, "email", email);
	put_text(buf, "additionalEmail", value[FIELD_CONTACT_EMAIL]);
	buf_puts(buf, ",\"landline\":\"\",\"isPrimaryContact\":true,\"isActive\":false");
	put_calendar(buf, "generationDate", customer->generated);
	buf_puts(buf, ",\"designationType\":\"\",\"division\":\"\",\"parentContactId\":0,\"subOfficeId\":0");
	put_number(buf, "creatorId", extra->contact_creator_id);
	buf_puts(buf, ",\"age\":0,\"maritalStatus\":\" \",\"isGuest\":false");
	put_text(buf, "phoneCountryCode", value[FIELD_COUNTRY_CODE]);
	put_text(buf, "companyName", value[FIELD_NAME]);
	buf_puts(buf, ",\"enquiryId\":0,\"isMergeEnable\":false}]");
}

/* Get, found. */
void
answer_customer(Reply *reply, const Customer *customer)
{
	const CustomerExtra *extra = customer->extra ? customer->extra : &ordinary;
	const char *value[N_FIELDS];
	Buf		   *buf = &reply->body;

	store_values(customer, value);
	begin_success(reply, "{\"Customer Details\":{\"id\":");
	buf_int(buf, customer->id);
	buf_puts(buf, ",\"cmId\":2469,\"isOrganization\":false");
	put_text(buf, "name", value[FIELD_NAME]);
	put_text(buf, "companyPhone", value[FIELD_PHONE]);
	buf_puts(buf, ",\"website\":\"\",\"address\":\"\"");
	put_text(buf, "state", value[FIELD_STATE]);
	put_text(buf, "city", value[FIELD_CITY]);
	put_text(buf, "country", value[FIELD_COUNTRY]);
	buf_puts(buf, ",\"latitude\":\"\",\"longitude\":\"\"");
	put_text(buf, "currentStatus", extra->current_status);
	put_printed_date(buf, "generationDate", customer->generated);
	put_number(buf, "creatorId", extra->creator_id);
	put_text(buf, "creatorName", extra->creator_name);
	buf_puts(buf, ",\"channelPartnerId\":0,\"remarks\":\"");
	buf_puts(buf, extra->remarks ? extra->remarks : "");
	buf_puts(buf, "\",\"ratePlanId\":0");
	put_text(buf, "customerCode", value[FIELD_CODE]);
	buf_puts(buf, ",\"isChannelPartner\":false,\"pinCode\":\"\",\"locality\":\"\"");
	put_number(buf, "campaignId", extra->campaign_id);
	buf_puts(buf, ",\"campaignItemId\":0,\"campaignActivityId\":0,\"totalNoOfEnquiries\":1");
	put_get_contact(buf, customer, extra, value);
	put_image_reference(buf, customer, extra);
	buf_puts(buf, ",\"classification\":\"\",\"customerType\":\"\",\"customerLevel\":0");
	put_number(buf, "zone", strtoll(value[FIELD_ZONE], NULL, 10));
	put_number(buf, "companyParentId", 0);
	put_number(buf, "assignedToId", strtoll(value[FIELD_ASSIGN_CODE], NULL, 10));
	put_text(buf, "assignedToName", value[FIELD_ASSIGN_NAME]);
	put_text(buf, "customerSubType", "");
	for (int i = 1; i <= 15; i++)
		buf_printf(buf, ",\"attr%d\":\"\"", i);
	buf_puts(buf, ",\"maxCreditAmt\":0.0,\"maxCreditPeriod\":0,\"historyEmpId\":0,\"channelPartnerEmpId\":0"
			 ",\"deleted\":false,\"companyStatus\":\"A\",\"isExistingCustomer\":false,\"isExistingContact\":false"
			 ",\"syncStatus\":false,\"syncdLocationId\":\"\",\"crossRemarks\":\"\",\"syncedStepNumber\":0"
			 ",\"outStandingAmount\":0.0,\"salesAdminZone\":0,\"referralId\":0,\"isApi\":false}"
			 ",\"status\":\"success\"}");
	reply->id = customer->id;
}

/* Get, not found; the spelling is the vendor's. */
void
answer_not_found(Reply *reply)
{
	answer_plain(reply, 200, TYPE_JSON,
				 "{\"Customer Details\": \"Information given by you does not exist in our sytsem.\", \"status\": \"failed\"}");
}

/* The remarks of the pull sample, with its raw line breaks, for any customer. */
static void
put_remarks(Buf *buf, const CustomerExtra *extra, const char **value)
{
	buf_puts(buf, ",\"remarks\":\"");
	if (extra->remarks != NULL)
		buf_puts(buf, extra->remarks);
	else
	{
		buf_puts(buf, "\nNAME ");
		buf_json_inner(buf, value[FIELD_NAME]);
		buf_puts(buf, "\nPHONE ");
		buf_json_inner(buf, value[FIELD_PHONE]);
		buf_puts(buf, "\nEMAIL ");
		buf_json_inner(buf, value[FIELD_EMAIL]);
		buf_puts(buf, "\nPRIMARY_SOURCE API\n");
	}
	buf_puts(buf, "\"");
}

static void
put_pull_contact(Buf *buf, const Customer *customer, const CustomerExtra *extra, const char **value)
{
	buf_puts(buf, ",\"contacts\":[{\"id\":");
	buf_int(buf, customer->contact_id);
	put_number(buf, "cmId", 2469);
	put_number(buf, "leadId", customer->id);
	put_text(buf, "contactPerson", value[FIELD_CONTACT_NAME]);
	put_text(buf, "gender", or_blank(value[FIELD_GENDER]));
	put_text(buf, "phone", value[FIELD_PHONE]);
	put_text(buf, "email", value[FIELD_EMAIL]);
	buf_puts(buf, ",\"isPrimaryContact\":true,\"isActive\":false");
	put_calendar(buf, "generationDate", customer->generated);
	buf_puts(buf, ",\"parentContactId\":0,\"subOfficeId\":0");
	put_number(buf, "creatorId", extra->contact_creator_id);
	buf_puts(buf, ",\"age\":0,\"maritalStatus\":\" \",\"isGuest\":false,\"companyName\":\"\",\"enquiryId\":0"
			 ",\"orderId\":0,\"isMergeEnable\":false,\"isMobileMasked\":false,\"isEmailMasked\":false}]");
}

void
answer_pull_begin(Reply *reply)
{
	begin_success(reply, "{\"message\":[");
}

/* One customer of a pull. */
void
answer_pull_customer(Reply *reply, const Customer *customer)
{
	const CustomerExtra *extra = customer->extra ? customer->extra : &ordinary;
	const char *value[N_FIELDS];
	Buf		   *buf = &reply->body;

	store_values(customer, value);
	if (buf->data[buf->len - 1] != '[')
		buf_puts(buf, ",");
	buf_puts(buf, "{\"id\":");
	buf_int(buf, customer->id);
	buf_puts(buf, ",\"cmId\":2469,\"isOrganization\":false");
	put_text(buf, "name", value[FIELD_NAME]);
	put_text(buf, "city", value[FIELD_CITY]);
	put_text(buf, "country", value[FIELD_COUNTRY]);
	put_text(buf, "currentStatus", extra->current_status);
	put_printed_date(buf, "generationDate", customer->generated);
	put_number(buf, "creatorId", extra->creator_id);
	put_text(buf, "creatorName", extra->creator_name);
	put_number(buf, "channelPartnerId", 0);
	put_remarks(buf, extra, value);
	buf_puts(buf, ",\"ratePlanId\":0");
	put_text(buf, "customerCode", value[FIELD_CODE]);
	buf_puts(buf, ",\"cityPotential\":\"false\",\"isChannelPartner\":false"
			 ",\"pinCode\":\"\",\"locality\":\"\"");
	put_number(buf, "campaignId", extra->campaign_id);
	buf_puts(buf, ",\"campaignItemId\":0,\"campaignActivityId\":0,\"totalNoOfEnquiries\":1,\"feedbackOnCustomer\":\"0\"");
	put_pull_contact(buf, customer, extra, value);
	put_calendar(buf, "lastModificationTime", customer->modified);
	put_image_reference(buf, customer, extra);
	buf_puts(buf, ",\"customerType\":\"\",\"customerLevel\":0");
	put_number(buf, "zone", strtoll(value[FIELD_ZONE], NULL, 10));
	put_number(buf, "companyParentId", 0);
	put_number(buf, "assignedToId", strtoll(value[FIELD_ASSIGN_CODE], NULL, 10));
	put_text(buf, "assignedToName", value[FIELD_ASSIGN_NAME]);
	buf_puts(buf, ",\"customerSubType\":\"\",\"maxCreditAmt\":0,\"maxCreditPeriod\":0,\"historyEmpId\":0"
			 ",\"channelPartnerEmpId\":0,\"deleted\":false,\"companyStatus\":\"A\",\"isExistingCustomer\":false"
			 ",\"isExistingContact\":false,\"syncStatus\":false,\"syncdLocationId\":\"\",\"crossRemarks\":\"\""
			 ",\"syncedStepNumber\":0,\"outStandingAmount\":0,\"salesAdminZone\":0,\"referralId\":0,\"isApi\":false}");
}

void
answer_pull_end(Reply *reply)
{
	buf_puts(&reply->body, "],\"status\":\"success\"}");
}
