/*
 * rules.c
 *		What Kapture takes, by the rules of its document; and kapture_phone().
 *
 * A request that is certain to fail still counts as one, and sends personal data to
 * no purpose.  So values that Kapture is certain to refuse are refused here, in
 * Kapture's own words, which kapture_hint() knows; other values are left to Kapture.
 *
 * Kapture takes phones of ten digits of which the first is 6 to 9, as Indian mobile
 * numbers have, and nothing else.  A number that cannot be brought to this form without
 * a guess is no phone: cutting something off might make it somebody else's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "api/rules.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(kapture_phone);

#define RULES_REQUIRED	"Name and (Phone Number or Email Id) are required fields"
#define RULES_EMAIL		"Invalid email id."
#define RULES_PHONE		"Invalid phone number, number must contain 10 digits and must start from 6 or above"

/* Digits of a number that Kapture takes. */
#define RULES_PHONE_DIGITS	10

/* Digits of a number with the longest prefix, 0091. */
#define RULES_MAX_DIGITS	(4 + RULES_PHONE_DIGITS)

/*
 * May this character stand anywhere in a number, without a meaning?  Marks of
 * writing direction come along where numbers are copied from an address book.
 */
static bool
rules_is_filler(pg_wchar c)
{
	if (c < 0x80)
		return c == ' ' || (c >= '\t' && c <= '\r') || strchr(".-/()[]", (int) c) != NULL;
	return c == 0xA0 ||			/* no-break space */
		(c >= 0x2000 && c <= 0x2015) || /* spaces, zero-width characters, marks of direction, dashes */
		(c >= 0x202A && c <= 0x202F) || /* more of these */
		(c >= 0x2060 && c <= 0x2069) ||
		c == 0x2212 ||			/* minus */
		c == 0xFEFF;
}

/*
 * The next character, or 0 for one that cannot be in a number; in encodings
 * other than UTF-8, that is every character outside of ASCII.
 */
static pg_wchar
rules_next(const char **p, const char *end)
{
	const unsigned char *at = (const unsigned char *) *p;
	int			len = 1;

	if (IS_HIGHBIT_SET(*at))
	{
		len = pg_utf_mblen(at);
		if (GetDatabaseEncoding() != PG_UTF8 || len > end - *p)
			return 0;
	}
	*p += len;
	return len == 1 ? *at : utf8_to_unicode(at);
}

/* Length of the prefix before the number in these digits; -1 if they have no known prefix. */
static int
rules_phone_prefix(const char *digits, int ndigits, bool plus)
{
	static const struct
	{
		const char *digits;
		bool		plus;
	}			prefixes[] = {{"", false}, {"0", false}, {"91", false}, {"0091", false}, {"91", true}, {"910", true}};

	for (int i = 0; i < lengthof(prefixes); i++)
	{
		int			len = strlen(prefixes[i].digits);

		if (plus == prefixes[i].plus && ndigits == len + RULES_PHONE_DIGITS &&
			memcmp(digits, prefixes[i].digits, len) == 0)
			return len;
	}
	return -1;
}

/* Is this a phone number that Kapture takes? */
static bool
rules_is_phone(const char *phone, size_t len)
{
	if (len != RULES_PHONE_DIGITS || phone[0] < '6')
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (phone[i] < '0' || phone[i] > '9')
			return false;
	}
	return true;
}

/*
 * Brings a number in the database's encoding, which need not end with a zero, to
 * the form that Kapture takes.  Returns false if that is impossible; then "phone"
 * holds nothing of use.
 */
static bool
rules_normalize_phone(const char *text, size_t len, char phone[RULES_PHONE_DIGITS + 1])
{
	const char *end = text + len;
	char		digits[RULES_MAX_DIGITS];
	int			ndigits = 0;
	bool		plus = false;
	int			prefix;

	while (text < end)
	{
		pg_wchar	c = rules_next(&text, end);

		if (c >= '0' && c <= '9' && ndigits < RULES_MAX_DIGITS)
			digits[ndigits++] = (char) c;
		else if (c == '+' && ndigits == 0 && !plus)
			plus = true;
		else if (c == 0 || !rules_is_filler(c))
			return false;
	}
	prefix = rules_phone_prefix(digits, ndigits, plus);
	if (prefix < 0)
		return false;
	memcpy(phone, digits + prefix, RULES_PHONE_DIGITS);
	phone[RULES_PHONE_DIGITS] = '\0';
	return rules_is_phone(phone, RULES_PHONE_DIGITS);
}

/*
 * May this be an email address?  Only what cannot be one is refused: no "@" or more
 * than one, nothing on one side of it, no dot in the domain, blanks or separators of
 * addresses.
 */
static bool
rules_may_be_email(const char *email)
{
	const char *at = strchr(email, '@');
	size_t		len = strlen(email);

	if (at == NULL || at == email || strchr(at + 1, '@') || strchr(at, '.') == NULL ||
		at[1] == '.' || email[len - 1] == '.' || email[len - 1] == '@')
		return false;
	for (const char *p = email; *p; p++)
	{
		if ((unsigned char) *p <= ' ' || *p == 0x7F || strchr(",;<>\"", *p) != NULL)
			return false;
	}
	return true;
}

static const char *
rules_nonempty(const char *value)
{
	return value && value[0] ? value : NULL;
}

/*
 * Returns the message with which Kapture would refuse an Add (or else an Update) of
 * these values, each of which may be NULL or empty; NULL if it is not known to refuse
 * them.  The text is constant.
 */
const char *
kapture_rules_refusal(bool is_add, const char *name, const char *phone, const char *email)
{
	name = rules_nonempty(name);
	phone = rules_nonempty(phone);
	email = rules_nonempty(email);
	if (is_add && (name == NULL || (phone == NULL && email == NULL)))
		return RULES_REQUIRED;
	if (email && !rules_may_be_email(email))
		return RULES_EMAIL;
	if (phone && !rules_is_phone(phone, strlen(phone)))
		return RULES_PHONE;
	return NULL;
}

/*
 * kapture_phone(phone text) returns text
 *
 * NULL unless the text is, beyond doubt, a number that Kapture takes.
 */
Datum
kapture_phone(PG_FUNCTION_ARGS)
{
	text	   *arg = PG_GETARG_TEXT_PP(0);
	char		phone[RULES_PHONE_DIGITS + 1];

	if (!rules_normalize_phone(VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), phone))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(phone));
}
