/*
 * identity.c
 *		Is an answer about the customer that was asked about?
 *
 * A server or proxy that gets out of step returns the answer to another request.
 * Answers repeat what was sent, so such an answer can be recognized: by the phone,
 * by the email, and, only where neither can be compared, by the name, which Kapture
 * changes more freely.  None of them comes back letter by letter: phones gain and
 * lose country codes and hyphens, emails change their case, and both may be masked.
 */
#include "postgres.h"

#include "api/identity.h"

#define IDENTITY_MIN_DIGITS	7	/* fewer say nothing */
#define IDENTITY_MAX_DIGITS	20	/* the last ones are looked at */
#define IDENTITY_MAX_ENTITY	8	/* bytes of "&amp;" and its like */

/* The last digits of a phone, masked ones as '*'; returns how many. */
static int
identity_digits(const char *phone, char *digits)
{
	int			n = 0;

	for (const char *p = phone; *p != '\0'; p++)
	{
		char		c = *p;

		if (c == 'x' || c == 'X' || c == '#')
			c = '*';
		if (c != '*' && (c < '0' || c > '9'))
			continue;
		if (n == IDENTITY_MAX_DIGITS)
			memmove(digits, digits + 1, --n);
		digits[n++] = c;
	}
	return n;
}

/*
 * kapture_match_phones
 *		Are these the same phone?  NULL cannot be compared.
 */
KaptureMatch
kapture_match_phones(const char *a, const char *b)
{
	char		a_digits[IDENTITY_MAX_DIGITS];
	char		b_digits[IDENTITY_MAX_DIGITS];
	int			a_n = a ? identity_digits(a, a_digits) : 0;
	int			b_n = b ? identity_digits(b, b_digits) : 0;
	bool		compared = false;

	if (Min(a_n, b_n) < IDENTITY_MIN_DIGITS)
		return KAPTURE_MATCH_UNKNOWN;
	/* from the end: country codes and zeros stand before the number */
	for (int i = 1; i <= Min(a_n, b_n); i++)
	{
		char		x = a_digits[a_n - i];
		char		y = b_digits[b_n - i];

		if (x == '*' || y == '*')
			continue;
		if (x != y)
			return KAPTURE_MATCH_NO;
		compared = true;
	}
	return compared ? KAPTURE_MATCH_YES : KAPTURE_MATCH_UNKNOWN;
}

/*
 * Does the text fit the pattern, in which "*" is any run of characters?  Backtracks
 * to the last "*" only, so that the time is at most the product of both lengths.
 */
static bool
identity_fits(const char *text, int len, const char *pattern, int pattern_len)
{
	int			t = 0;
	int			p = 0;
	int			star = -1;
	int			from = 0;

	while (t < len)
	{
		if (p < pattern_len && pattern[p] == '*')
		{
			star = p++;
			from = t;
		}
		else if (p < pattern_len &&
				 pg_ascii_tolower((unsigned char) pattern[p]) == pg_ascii_tolower((unsigned char) text[t]))
		{
			p++;
			t++;
		}
		else if (star >= 0)
		{
			p = star + 1;
			t = ++from;
		}
		else
			return false;
	}
	while (p < pattern_len && pattern[p] == '*')
		p++;
	return p == pattern_len;
}

/* An email without blanks around it; false if it is none. */
static bool
identity_trim_email(const char **email, int *len, bool *ascii)
{
	const char *start = *email;
	const char *end;

	if (start == NULL)
		return false;
	end = start + strlen(start);
	while (start < end && (unsigned char) *start <= ' ')
		start++;
	while (start < end && (unsigned char) end[-1] <= ' ')
		end--;
	*email = start;
	*len = end - start;
	*ascii = true;
	for (int i = 0; i < *len; i++)
		*ascii &= !IS_HIGHBIT_SET(start[i]);
	return memchr(start, '@', *len) != NULL;
}

/*
 * kapture_match_emails
 *		Are these the same email?  NULL cannot be compared.
 */
KaptureMatch
kapture_match_emails(const char *a, const char *b)
{
	int			a_len;
	int			b_len;
	bool		a_ascii;
	bool		b_ascii;

	if (!identity_trim_email(&a, &a_len, &a_ascii) || !identity_trim_email(&b, &b_len, &b_ascii))
		return KAPTURE_MATCH_UNKNOWN;
	if (identity_fits(a, a_len, b, b_len) || identity_fits(b, b_len, a, a_len))
		return KAPTURE_MATCH_YES;
	/* the case of letters outside of ASCII is not known here */
	return a_ascii || b_ascii ? KAPTURE_MATCH_NO : KAPTURE_MATCH_UNKNOWN;
}

/*
 * The next byte of a name that matters, in lower case; 0 at its end.  Blanks,
 * punctuation and entities of HTML do not matter.
 */
static unsigned char
identity_next(const char **name)
{
	for (const char *p = *name; *p != '\0'; p++)
	{
		unsigned char c = pg_ascii_tolower((unsigned char) *p);
		size_t		entity = c == '&' ? strcspn(p, ";") : 0;

		if (entity > 0 && entity < IDENTITY_MAX_ENTITY && p[entity] == ';')
		{
			p += entity;
			continue;
		}
		if (IS_HIGHBIT_SET(c) || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'))
		{
			*name = p + 1;
			return c;
		}
	}
	return 0;
}

/* Are these the same name?  One of them may be cut off. */
static KaptureMatch
identity_match_names(const char *a, const char *b)
{
	KaptureMatch match = KAPTURE_MATCH_UNKNOWN;

	/* these stand for characters that were lost on the way */
	if (a == NULL || b == NULL || strchr(b, '?') != NULL || strstr(b, "\xEF\xBF\xBD") != NULL)
		return KAPTURE_MATCH_UNKNOWN;
	for (;;)
	{
		unsigned char x = identity_next(&a);
		unsigned char y = identity_next(&b);

		if (x == 0 || y == 0)
			return match;
		if (x != y)
			return KAPTURE_MATCH_NO;
		match = KAPTURE_MATCH_YES;
	}
}

/*
 * kapture_identity_conflict
 *		Returns what in an answer shows that it is not about the customer that
 *		was sent: "phone", "email" or "name"; NULL if nothing does.
 */
const char *
kapture_identity_conflict(const KaptureIdentity *sent, const KaptureIdentity *repeated)
{
	KaptureMatch phone = kapture_match_phones(sent->phone, repeated->phone);
	KaptureMatch email = kapture_match_emails(sent->email, repeated->email);

	if (phone == KAPTURE_MATCH_NO)
		return "phone";
	if (email == KAPTURE_MATCH_NO)
		return "email";
	if (phone == KAPTURE_MATCH_UNKNOWN && email == KAPTURE_MATCH_UNKNOWN &&
		identity_match_names(sent->name, repeated->name) == KAPTURE_MATCH_NO)
		return "name";
	return NULL;
}
