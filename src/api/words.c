/*
 * words.c
 *		What Kapture's words mean.  (Source: the failure tables of the customer API
 *		document, and what accounts have been seen to answer.)
 *
 * All known words are in word_rules; the first rule that fits decides.  Kapture is
 * not strict about capitals, spaces, hyphens and underscores, so they are ignored.
 */
#include "postgres.h"

#include <ctype.h>

#include "api/words.h"

#define WORDS_ADD		(1 << KAPTURE_API_ADD)
#define WORDS_UPDATE	(1 << KAPTURE_API_UPDATE)
#define WORDS_GET		(1 << KAPTURE_API_GET)
#define WORDS_PULL		(1 << KAPTURE_API_PULL)
#define WORDS_WRITE		(WORDS_ADD | WORDS_UPDATE)
#define WORDS_READ		(WORDS_GET | WORDS_PULL)
#define WORDS_VALUES	(WORDS_WRITE | WORDS_GET)	/* requests with values of a row */
#define WORDS_ANY		(~0)	/* other modules, too */

/* A text with "words", in lower case and without blanks, has that meaning. */
static const struct
{
	int			apis;
	const char *words;
	KaptureMeaning meaning;
	bool		about_customers;	/* only in a text about customers: what is not found may be an API or an employee */
}			word_rules[] =
{
	/* the key of an API: each has one of its own, and each expires */
	{WORDS_ANY, "authkey", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "apikey", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "messagekey", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "keyexpired", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "keyhasexpired", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "keyisexpired", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "apiexpired", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "apihasexpired", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "insufficientpermission", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "invalidusername", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "invalidcredential", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "unauthorized", KAPTURE_MEANS_BAD_KEY},
	{WORDS_ANY, "unauthorised", KAPTURE_MEANS_BAD_KEY},

	/* an object where an array is wanted, or the other way round; another dialect */
	{WORDS_ANY, "invalidjson", KAPTURE_MEANS_BAD_FORM},
	{WORDS_ANY, "jsonexception", KAPTURE_MEANS_BAD_FORM},
	{WORDS_ANY, "jsonarraytext", KAPTURE_MEANS_BAD_FORM},
	{WORDS_ANY, "jsonobjecttext", KAPTURE_MEANS_BAD_FORM},
	{WORDS_ANY, "invalidapi", KAPTURE_MEANS_BAD_FORM},
	{WORDS_ANY, "unknownapi", KAPTURE_MEANS_BAD_FORM},

	/* a server without its database also says that there is no data, but that is a fault */
	{WORDS_READ, "database", KAPTURE_MEANS_FAULT},
	{WORDS_READ, "datasource", KAPTURE_MEANS_FAULT},

	{WORDS_GET, "doesnotexist", KAPTURE_MEANS_NOBODY},
	{WORDS_READ, "notfound", KAPTURE_MEANS_NOBODY, .about_customers = true},
	{WORDS_READ, "norecord", KAPTURE_MEANS_NOBODY},
	{WORDS_READ, "nodata", KAPTURE_MEANS_NOBODY},
	{WORDS_READ, "nocustomer", KAPTURE_MEANS_NOBODY},

	{WORDS_WRITE, "alreadyexist", KAPTURE_MEANS_TAKEN},
	{WORDS_WRITE, "alreadypresent", KAPTURE_MEANS_TAKEN},
	{WORDS_WRITE, "alreadyregistered", KAPTURE_MEANS_TAKEN},
	{WORDS_WRITE, "alreadyinuse", KAPTURE_MEANS_TAKEN},
	{WORDS_WRITE, "duplicate", KAPTURE_MEANS_TAKEN},

	/* an account's demands on fields other than the three that identify a customer; those three are not meant */
	{WORDS_WRITE, "contactperson", KAPTURE_MEANS_UNKNOWN},
	{WORDS_WRITE, "assignemp", KAPTURE_MEANS_UNKNOWN},
	{WORDS_WRITE, "campaignname", KAPTURE_MEANS_UNKNOWN},
	{WORDS_WRITE, "username", KAPTURE_MEANS_UNKNOWN},

	{WORDS_WRITE, "doesnotexist", KAPTURE_MEANS_BAD_VALUE},
	{WORDS_VALUES, "phone", KAPTURE_MEANS_BAD_VALUE},
	{WORDS_VALUES, "mobile", KAPTURE_MEANS_BAD_VALUE},
	{WORDS_VALUES, "email", KAPTURE_MEANS_BAD_VALUE},
	{WORDS_WRITE, "name", KAPTURE_MEANS_BAD_VALUE},

	/* a fault of the server, or too many requests, whatever the HTTP code */
	{WORDS_ANY, "toomanyrequest", KAPTURE_MEANS_TOO_MANY},
	{WORDS_ANY, "ratelimit", KAPTURE_MEANS_TOO_MANY},
	{WORDS_ANY, "quotaexceeded", KAPTURE_MEANS_TOO_MANY},
	{WORDS_ANY, "internalserver", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "internalerror", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "serverbusy", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "serviceunavailable", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "temporarilyunavailable", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "undermaintenance", KAPTURE_MEANS_FAULT},
	{WORDS_ANY, "tryagainlater", KAPTURE_MEANS_FAULT},
};

/* Is this character ignored? */
static bool
words_is_blank(char c)
{
	return c == ' ' || c == '-' || c == '_';
}

/*
 * kapture_words_say
 *		Does the text contain the words, which are in lower case and without
 *		blanks?
 */
bool
kapture_words_say(const char *text, const char *words)
{
	const char	upper = pg_ascii_toupper((unsigned char) *words);

	for (; *text != '\0'; text++)
	{
		const char *t = text;
		const char *w = words;

		/* for each of the rules, nearly all characters are skipped here */
		if (*t != *w && *t != upper)
			continue;
		while (*w != '\0' && *t != '\0')
		{
			if (w > words && words_is_blank(*t))
				t++;
			else if (pg_ascii_tolower((unsigned char) *t) == (unsigned char) *w)
			{
				t++;
				w++;
			}
			else
				break;
		}
		if (*w == '\0')
			return true;
	}
	return *words == '\0';
}

/* Is a text about customers or their data? */
static bool
words_name_customers(const char *text)
{
	static const char *const names[] = {"customer", "record", "data", "detail", "information", "lead", "contact", "phone", "mobile", "email"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (kapture_words_say(text, names[i]))
			return true;
	}
	return false;
}

/*
 * kapture_words_mean
 *		What the text of an answer of that API means, if it is no success.
 */
KaptureMeaning
kapture_words_mean(KaptureApi api, const char *text)
{
	for (int i = 0; i < lengthof(word_rules); i++)
	{
		if ((word_rules[i].apis & (1 << api)) != 0 && kapture_words_say(text, word_rules[i].words) &&
			(!word_rules[i].about_customers || words_name_customers(text)))
			return word_rules[i].meaning;
	}
	return KAPTURE_MEANS_UNKNOWN;
}

/* Is this character part of a word? */
static bool
words_is_letter(char c)
{
	return isalnum((unsigned char) c) || IS_HIGHBIT_SET(c);
}

/* Is this value a single word, which may be Kapture's own as well? */
static bool
words_is_one_word(const char *value)
{
	while (isalpha((unsigned char) *value) || IS_HIGHBIT_SET(*value))
		value++;
	return *value == '\0';
}

/*
 * How many bytes the text begins with that repeat the value, as whole words; 0 if it does not.
 * Case is ignored, as is the kind and number of blanks.  The text may end before the value does.
 */
static int
words_repeat(const char *text, const char *value)
{
	const char *t = text;

	while (isspace((unsigned char) *value))
		value++;
	if (*value == '\0')
		return 0;
	while (*value != '\0' && *t != '\0')
	{
		if (isspace((unsigned char) *value))
		{
			while (isspace((unsigned char) *value))
				value++;
			if (*value != '\0' && !isspace((unsigned char) *t))
				return 0;
			while (*value != '\0' && isspace((unsigned char) *t))
				t++;
		}
		else if (pg_tolower((unsigned char) *t) == pg_tolower((unsigned char) *value))
		{
			t++;
			value++;
		}
		else
			return 0;
	}
	return t > text && words_is_letter(t[-1]) && words_is_letter(*t) ? 0 : t - text;
}

/* How many bytes the text begins with that repeat one of these values, the longest; 0 if none. */
static int
words_repeat_any(const char *text, const KaptureSent *sent, bool one_word)
{
	int			longest = 0;

	for (int i = 0; i < sent->n; i++)
	{
		const char *value = sent->values[i];

		if (value && (one_word || !words_is_one_word(value)))
			longest = Max(longest, words_repeat(text, value));
	}
	return longest;
}

/* The text with a mark in place of the values, palloc'ed.  "one_word": also in place of single words. */
static char *
words_cut(const char *text, const KaptureSent *sent, bool one_word)
{
	char	   *result = palloc(strlen(text) + 1);
	char	   *r = result;
	bool		inside = false; /* of a word */

	while (*text != '\0')
	{
		int			len = inside && words_is_letter(*text) ? 0 : words_repeat_any(text, sent, one_word);

		inside = words_is_letter(*text);
		*r++ = len > 0 ? '*' : *text;
		text += Max(len, 1);
		if (len > 0)
			inside = false;
	}
	*r = '\0';
	return result;
}

/*
 * kapture_words_own
 *		The text of an answer without what it repeats of the values that were sent (NULL: none),
 *		as these are not Kapture's words; palloc'ed.
 *
 * A value of one word may be Kapture's word as well ("phone").  It is left in, unless it would
 * hold up all other rows ("Unauthorized").
 */
char *
kapture_words_own(KaptureApi api, const char *text, const KaptureSent *sent)
{
	char	   *own;

	if (sent == NULL || sent->n == 0)
		return pstrdup(text);
	own = words_cut(text, sent, false);
	switch (kapture_words_mean(api, own))
	{
		case KAPTURE_MEANS_BAD_KEY:
		case KAPTURE_MEANS_BAD_FORM:
		case KAPTURE_MEANS_TOO_MANY:
		case KAPTURE_MEANS_FAULT:
			return words_cut(text, sent, true);
		case KAPTURE_MEANS_UNKNOWN:
		case KAPTURE_MEANS_NOBODY:
		case KAPTURE_MEANS_TAKEN:
		case KAPTURE_MEANS_BAD_VALUE:
			break;
	}
	return own;
}

/*
 * kapture_words_customer_id
 *		The customer's id that a text names, as in "Lead already exists, Customer
 *		ID :12, Enquiry ID :34"; 0 if it names none.
 */
int64
kapture_words_customer_id(const char *text)
{
	static const char label[] = "customer id";
	size_t		len = sizeof(label) - 1;

	for (; *text != '\0'; text++)
	{
		const char *p = text + len;
		char	   *end;
		int64		id;

		if (pg_strncasecmp(text, label, len) != 0)
			continue;
		p += strspn(p, " :=#");
		if (!isdigit((unsigned char) *p))
			continue;
		errno = 0;
		id = strtoi64(p, &end, 10);
		return errno == 0 && !isalnum((unsigned char) *end) ? id : 0;
	}
	return 0;
}
