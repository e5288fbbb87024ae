/*
 * keys.c
 *		Checks of row keys as text (base/catalog.c).
 */
#include "unit.h"

#include "base/catalog.h"

void
unit_keys(void)
{
	static const struct
	{
		int			n;
		const char *values[3];
		const char *packed;
	}			cases[] = {
		{1, {"42"}, "42"},
		{1, {"{a,b}"}, "{a,b}"},
		{1, {""}, ""},
		{2, {"1", "2"}, "{1,2}"},
		{2, {"", "NULL"}, "{\"\",\"NULL\"}"},
		{3, {"a,b", "say \"x\"", "back\\slash"}, "{\"a,b\",\"say \\\"x\\\"\",\"back\\\\slash\"}"},
		{2, {" padded ", "{}"}, "{\" padded \",\"{}\"}"},
		{2, {"\xc3\xa4", "line\nbreak"}, "{\xc3\xa4,\"line\nbreak\"}"},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		char	   *packed = kapture_catalog_pack_key((char **) cases[i].values, cases[i].n);
		char	  **values = kapture_catalog_unpack_key(packed, cases[i].n);

		unit_is_text(packed, cases[i].packed, "a key is packed");
		for (int k = 0; k < cases[i].n; k++)
			unit_is_text(values[k], cases[i].values[k], "and unpacked");
	}
	unit_ok(kapture_catalog_unpack_key("42", 2) == NULL, "one value is no key of two columns");
	unit_ok(kapture_catalog_unpack_key("{1,2,3}", 2) == NULL, "nor are three");
}
