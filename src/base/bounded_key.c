/*
 * bounded_key.c
 *		Keys of rows as indexes hold them.
 *
 * Keys may be as long as users' indexes allow, or longer where the index was dropped: too
 * long for an index that has other columns, too.  Hashes alone would do, but would put
 * neighbouring keys far apart, each on a page of its own.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "common/hashfn.h"
#include "fmgr.h"

#include "base/bounded_key.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(kapture_bounded_key);

/* Bytes of a key that an index holds as they are. */
#define ROW_KEY_BOUND	64

/*
 * kapture_bounded_key(row_key text) returns bytea
 *
 * The key, or, if it is too long to be sure of a place in an index, its beginning and
 * two hashes, which are as good as the key itself.  The results for a short key and for a
 * long one differ in length.
 */
Datum
kapture_bounded_key(PG_FUNCTION_ARGS)
{
	text	   *key;
	bytea	   *bounded;
	uint64		hashes[2];

	if (toast_raw_datum_size(PG_GETARG_DATUM(0)) <= VARHDRSZ + ROW_KEY_BOUND)
		PG_RETURN_BYTEA_P((bytea *) PG_GETARG_TEXT_PP(0));
	key = PG_GETARG_TEXT_PP(0);
	for (int i = 0; i < lengthof(hashes); i++)
		hashes[i] = hash_bytes_extended((unsigned char *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), i);
	bounded = palloc(VARHDRSZ + ROW_KEY_BOUND + sizeof(hashes));
	SET_VARSIZE(bounded, VARHDRSZ + ROW_KEY_BOUND + sizeof(hashes));
	memcpy(VARDATA(bounded), VARDATA_ANY(key), ROW_KEY_BOUND);
	memcpy(VARDATA(bounded) + ROW_KEY_BOUND, hashes, sizeof(hashes));
	PG_RETURN_BYTEA_P(bounded);
}
