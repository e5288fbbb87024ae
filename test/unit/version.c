/*
 * version.c
 *		Checks of base/version.c against the version of this build.
 */
#include "unit.h"

#include "base/version.h"

void
unit_version(void)
{
	static const struct
	{
		const char *installed;
		int			sign;
	}			cases[] = {
		{KAPTURE_SQL_VERSION, 0},
		{KAPTURE_SQL_VERSION ".1", 1},
		{"0.9", -1},
		{"0.99.99", -1},
		{"1", -1},
		{"100", 1},
		{"100.0", 1},
		{"", -1},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		int			got = kapture_version_compare(cases[i].installed);

		unit_is_int(got < 0 ? -1 : got > 0, cases[i].sign, psprintf("version \"%s\" beside " KAPTURE_SQL_VERSION, cases[i].installed));
	}
	unit_ok(strstr(kapture_version_hint("0.9"), "ALTER EXTENSION") != NULL, "an older one is updated");
	unit_ok(strstr(kapture_version_hint("100"), "Install the library") != NULL, "a newer one needs its library");
}
