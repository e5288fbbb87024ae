/*
 * phone.c
 *		kapture_phone(): phone numbers as people write them, as Kapture takes them.
 *
 * Kapture takes ten digits of which the first is 6 to 9, as Indian mobile numbers
 * have, and nothing else.  A number that cannot be brought to this without a guess
 * is none: to cut something off would be to call somebody else.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "api/phone.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(kapture_phone);

/* Digits of the longest prefix, 0091, or of +91 (0), and a number. */
#define PHONE_MAX_DIGITS	(4 + KAPTURE_PHONE_DIGITS)

/*
 * May this character stand anywhere in a number, without a meaning?  Marks of
 * writing direction come along where numbers are copied from an address book.
 */
static bool
phone_is_filler(pg_wchar c)
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
 * The next character, or 0 for one that has no place in a number; in other
 * encodings than UTF-8 all are that are not ASCII.
 */
static pg_wchar
phone_next(const char **p, const char *end)
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

/* Length of what stands before the number in so many digits; -1: it is none that is known. */
static int
phone_prefix(const char *digits, int ndigits, bool plus)
{
	static const struct
	{
		const char *digits;
		bool		plus;
	}			prefixes[] = {{"", false}, {"0", false}, {"91", false}, {"0091", false}, {"91", true}, {"910", true}};

	for (int i = 0; i < lengthof(prefixes); i++)
	{
		int			len = strlen(prefixes[i].digits);

		if (plus == prefixes[i].plus && ndigits == len + KAPTURE_PHONE_DIGITS &&
			memcmp(digits, prefixes[i].digits, len) == 0)
			return len;
	}
	return -1;
}

/*
 * Is this a phone number that Kapture takes: ten digits, the first of them 6 to 9?
 */
bool
kapture_phone_is_valid(const char *phone, size_t len)
{
	if (len != KAPTURE_PHONE_DIGITS || phone[0] < '6')
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
 * the form that Kapture takes.  Returns false if it has none; then "phone" holds
 * nothing of use.
 */
bool
kapture_phone_normalize(const char *text, size_t len, char phone[KAPTURE_PHONE_DIGITS + 1])
{
	const char *end = text + len;
	char		digits[PHONE_MAX_DIGITS];
	int			ndigits = 0;
	bool		plus = false;
	int			prefix;

	while (text < end)
	{
		pg_wchar	c = phone_next(&text, end);

		if (c >= '0' && c <= '9' && ndigits < PHONE_MAX_DIGITS)
			digits[ndigits++] = (char) c;
		else if (c == '+' && ndigits == 0 && !plus)
			plus = true;
		else if (c == 0 || !phone_is_filler(c))
			return false;
	}
	prefix = phone_prefix(digits, ndigits, plus);
	if (prefix < 0)
		return false;
	memcpy(phone, digits + prefix, KAPTURE_PHONE_DIGITS);
	phone[KAPTURE_PHONE_DIGITS] = '\0';
	return kapture_phone_is_valid(phone, KAPTURE_PHONE_DIGITS);
}

/*
 * kapture_phone(phone text) returns text
 *
 * NULL for what is not, beyond doubt, a number that Kapture takes.
 */
Datum
kapture_phone(PG_FUNCTION_ARGS)
{
	text	   *arg = PG_GETARG_TEXT_PP(0);
	char		phone[KAPTURE_PHONE_DIGITS + 1];

	if (!kapture_phone_normalize(VARDATA_ANY(arg), VARSIZE_ANY_EXHDR(arg), phone))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(phone));
}
