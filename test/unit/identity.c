/*
 * identity.c
 *		Checks of api/identity.c: which phones, emails and names are the same.
 */
#include "unit.h"

#include "api/identity.h"

static const struct
{
	const char *a;
	const char *b;
	KaptureMatch match;
}			phones[] =
{
	{"9845765226", "9845765226", KAPTURE_MATCH_YES},
	{"9845765226", "+91 98457-65226", KAPTURE_MATCH_YES},
	{"9845765226", "09845765226", KAPTURE_MATCH_YES},
	{"9845765226", "9845765227", KAPTURE_MATCH_NO},
	{"9845765226", "8845765226", KAPTURE_MATCH_NO},
	{"9845765226", "98457xx#*6", KAPTURE_MATCH_YES},
	{"9845765226", "98457xxxX7", KAPTURE_MATCH_NO},
	{"9845765226", "**********", KAPTURE_MATCH_UNKNOWN},
	/* seven digits say something, six do not */
	{"5765226", "9845765226", KAPTURE_MATCH_YES},
	{"765226", "9845765226", KAPTURE_MATCH_UNKNOWN},
	{"765226", "111111", KAPTURE_MATCH_UNKNOWN},
	/* of long ones, the last twenty are looked at */
	{"111119999988888777776", "222229999988888777776", KAPTURE_MATCH_NO},
	{"11111199999888887777766666", "22222299999888887777766666", KAPTURE_MATCH_YES},
	{NULL, "9845765226", KAPTURE_MATCH_UNKNOWN},
	{"9845765226", NULL, KAPTURE_MATCH_UNKNOWN},
	{"", "", KAPTURE_MATCH_UNKNOWN},
};

static const struct
{
	const char *a;
	const char *b;
	KaptureMatch match;
}			emails[] =
{
	{"priya@example.com", "Priya@Example.COM", KAPTURE_MATCH_YES},
	{"  priya@example.com\n", "priya@example.com", KAPTURE_MATCH_YES},
	{"priya@example.com", "p***a@example.com", KAPTURE_MATCH_YES},
	{"p*@*.com", "priya@example.com", KAPTURE_MATCH_YES},
	{"priya@example.com", "p*b@example.com", KAPTURE_MATCH_NO},
	{"priya@example.com", "priya@example.com*", KAPTURE_MATCH_YES},
	{"priya@example.com", "priya@example.co", KAPTURE_MATCH_NO},
	{"priya@example.co", "priya@example.com", KAPTURE_MATCH_NO},
	{"aab@example.com", "*ab@example.com", KAPTURE_MATCH_YES},
	/* the case of other letters than ASCII's is not known */
	{"\xc3\xa4@example.com", "\xc3\x84@example.com", KAPTURE_MATCH_UNKNOWN},
	{"\xc3\xa4@example.com", "b@example.com", KAPTURE_MATCH_NO},
	{"no email", "priya@example.com", KAPTURE_MATCH_UNKNOWN},
	{"priya@example.com", "", KAPTURE_MATCH_UNKNOWN},
	{NULL, "priya@example.com", KAPTURE_MATCH_UNKNOWN},
};

/* What was sent and what came back, as name, phone and email; and what gives it away. */
static const struct
{
	KaptureIdentity sent;
	KaptureIdentity repeated;
	const char *conflict;
}			identities[] =
{
	{{"Priya", "9845765226", "a@b.example"}, {"Priya", "9845765226", "a@b.example"}, NULL},
	{{"Priya", "9845765226", "a@b.example"}, {"Ravi", "9845765226", NULL}, NULL},
	{{"Priya", "9845765226", "a@b.example"}, {"Ravi", NULL, "a@b.example"}, NULL},
	{{"Priya", "9845765226", "a@b.example"}, {"Priya", "9845765227", "a@b.example"}, "phone"},
	{{"Priya", "9845765226", "a@b.example"}, {"Priya", "9845765226", "c@b.example"}, "email"},
	{{"Priya", "9845765226", NULL}, {"Ravi", NULL, NULL}, "name"},
	{{"Priya", NULL, NULL}, {"Priya Rao", NULL, NULL}, NULL},
	{{"Priya", NULL, NULL}, {"PRIYA-", NULL, NULL}, NULL},
	{{"A & B", NULL, NULL}, {"a &amp; b", NULL, NULL}, NULL},
	{{"A & B", NULL, NULL}, {"a &averylongone; b", NULL, NULL}, "name"},
	{{"Priya 1", NULL, NULL}, {"Priya 2", NULL, NULL}, "name"},
	{{"Az09", NULL, NULL}, {"aZ09", NULL, NULL}, NULL},
	/* each digit and letter counts, the first and the last of them, too */
	{{"P0", NULL, NULL}, {"P1", NULL, NULL}, "name"},
	{{"P9", NULL, NULL}, {"P8", NULL, NULL}, "name"},
	{{"Pa", NULL, NULL}, {"Pb", NULL, NULL}, "name"},
	{{"Az", NULL, NULL}, {"Aa", NULL, NULL}, "name"},
	{{"J\xc3\xbcrgen", NULL, NULL}, {"J?rgen", NULL, NULL}, NULL},
	{{"J\xc3\xbcrgen", NULL, NULL}, {"J\xc3\xb6rgen", NULL, NULL}, "name"},
	{{"J\xc3\xbcrgen", NULL, NULL}, {"J\xef\xbf\xbdrgen", NULL, NULL}, NULL},
	{{NULL, NULL, NULL}, {"Ravi", NULL, NULL}, NULL},
	{{"Priya", NULL, NULL}, {NULL, NULL, NULL}, NULL},
};

void
unit_identity(void)
{
	for (int i = 0; i < lengthof(phones); i++)
		unit_is_int(kapture_match_phones(phones[i].a, phones[i].b), phones[i].match,
					psprintf("phones \"%s\" and \"%s\"", phones[i].a ? phones[i].a : "(null)", phones[i].b ? phones[i].b : "(null)"));
	for (int i = 0; i < lengthof(emails); i++)
		unit_is_int(kapture_match_emails(emails[i].a, emails[i].b), emails[i].match,
					psprintf("emails \"%s\" and \"%s\"", emails[i].a ? emails[i].a : "(null)", emails[i].b));
	for (int i = 0; i < lengthof(identities); i++)
		unit_is_text(kapture_identity_conflict(&identities[i].sent, &identities[i].repeated), identities[i].conflict,
					 psprintf("what gives away answer %d", i));
}
