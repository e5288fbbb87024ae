/*
 * rules.c
 *		Checks of what Kapture is known to refuse (api/rules.c).
 */
#include "unit.h"

#include "api/rules.h"

void
unit_rules(void)
{
	static const char *const no_emails[] = {
		"acme", "@acme.example", "a@b@acme.example", "a@acme", "a@.example", "a@acme.", "a.b@", "a b@acme.example",
		"a\x7F@acme.example", "a,b@acme.example", "<a@acme.example>", "a@acme.example;", "\"a\"@acme.example", "a@acme.example\n"
	};
	static const char *const no_phones[] = {
		"987654321", "98765432100", "5876543210", "987654321a", "98765/3210", "+919876543210"
	};

	for (int i = 0; i < lengthof(no_emails); i++)
		unit_is_text(kapture_rules_refusal(false, NULL, NULL, no_emails[i]), "Invalid email id.", psprintf("email \"%s\"", no_emails[i]));
	for (int i = 0; i < lengthof(no_phones); i++)
		unit_is_text(kapture_rules_refusal(true, "A", no_phones[i], NULL),
					 "Invalid phone number, number must contain 10 digits and must start from 6 or above", psprintf("phone \"%s\"", no_phones[i]));
	unit_is_text(kapture_rules_refusal(true, "", "9876543210", NULL), "Name and (Phone Number or Email Id) are required fields", "no name");
	unit_is_text(kapture_rules_refusal(true, "A", "", ""), "Name and (Phone Number or Email Id) are required fields", "neither phone nor email");
	unit_is_text(kapture_rules_refusal(true, "A", NULL, "a.b@acme.example"), NULL, "an email is enough");
	unit_is_text(kapture_rules_refusal(true, "A", "6000000000", NULL), NULL, "so is a phone");
	unit_is_text(kapture_rules_refusal(false, NULL, NULL, NULL), NULL, "an Update needs none");
}
