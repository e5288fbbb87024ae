/*
 * digest.c
 *		Checks of known/digest.c.
 */
#include "unit.h"

#include "utils/builtins.h"

#include "known/digest.h"

void
unit_digest(void)
{
	KaptureMappedColumn columns[] = {{.bit = 0,.field = "phone"}, {.bit = 2,.field = "city"}, {.bit = 5,.field = "zone"}};
	KaptureAttachment att = {.serverid = 7,.ncolumns = lengthof(columns),.columns = columns};
	char	   *values[] = {"9845765226", "Pune", ""};
	char	   *others[] = {"9845765226", "Surat", NULL};
	bytea	   *digests;

	unit_is_int(kapture_digest(7, 1, "phone", "9845765226"), 0, "without a key all is unknown");
	unit_ok(kapture_digest_make(&att, 1, values, -1) == NULL, "all of a row, too");

	/* the vector of the paper that describes SipHash-2-4: bytes 0 to 14 under the key 0 to 15 */
	kapture_digest_set_key("\000\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017");
	unit_ok(kapture_digest_bytes("\000\001\002\003\004\005\006\007\010\011\012\013\014\015\016", 15) == UINT64CONST(0xa129ca6149be45e5),
			"the hash is SipHash");

	unit_ok(kapture_digest(7, 1, "phone", "9845765226") != 0, "with a key it is known");
	unit_ok(kapture_digest(7, 1, "phone", "9845765226") == kapture_digest(7, 1, "phone", "9845765226"), "the same for the same");
	unit_ok(kapture_digest(7, 1, "phone", "9845765226") != kapture_digest(7, 1, "phone", "9845765227"), "another one for another value");
	unit_ok(kapture_digest(7, 1, "phone", "9845765226") != kapture_digest(7, 2, "phone", "9845765226"), "for another customer");
	unit_ok(kapture_digest(7, 1, "phone", "9845765226") != kapture_digest(7, 1, "additional_contact_phone", "9845765226"), "for another field");
	unit_is_int(kapture_digest(7, 1, "phone", ""), 0, "an empty value is never sent");
	unit_is_int(kapture_digest(7, 1, "phone", NULL), 0, "nor is NULL");
	unit_is_int(kapture_digest(7, 0, "phone", "9845765226"), 0, "nobody has nothing");

	digests = kapture_digest_make(&att, 1, values, -1);
	unit_ok(kapture_digest_get(digests, 0) == kapture_digest(7, 1, "phone", "9845765226"), "each field has its place");
	unit_ok(kapture_digest_get(digests, 2) == kapture_digest(7, 1, "city", "Pune"), "by its bit");
	unit_is_int(kapture_digest_get(digests, 1), 0, "a bit that is not in use has none");
	unit_is_int(kapture_digest_get(digests, 5), 0, "nor an empty value");
	unit_is_int(kapture_digest_get(digests, 62), 0, "nor what is behind the end");
	unit_is_int(kapture_digest_get(NULL, 0), 0, "nor nothing");
	unit_is_int(kapture_digest_get(kapture_digest_make(&att, 1, values, 1), 2), 0, "what is not in the mask is not in there");

	digests = kapture_digest_merge(kapture_digest_make(&att, 1, values, 1), kapture_digest_make(&att, 1, others, 4));
	unit_ok(kapture_digest_get(digests, 0) == kapture_digest(7, 1, "phone", "9845765226"), "merged: the older where the newer has none");
	unit_ok(kapture_digest_get(digests, 2) == kapture_digest(7, 1, "city", "Surat"), "the newer, though the older was shorter");
	digests = kapture_digest_merge(kapture_digest_make(&att, 1, values, -1), kapture_digest_make(&att, 1, others, 4));
	unit_ok(kapture_digest_get(digests, 2) == kapture_digest(7, 1, "city", "Surat"), "the newer where both have one");
	kapture_digest_set_key(NULL);
}
