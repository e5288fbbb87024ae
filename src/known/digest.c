/*
 * digest.c
 *		Keyed hashes of the values that Kapture has of a row.
 *
 * For each field that was sent, kapture_row.digests has eight bytes that tell
 * whether its value has changed since.  A phone number has ten digits: whoever could
 * compute these hashes would find it in no time.  So they are SipHash with a key of
 * the database's own, which no dump has (kapture_salt); another key makes all digests
 * unknown.  Customer and field are hashed along, so that equal values of different
 * rows do not show.
 *
 * Why not a hash of PostgreSQL's: hash_bytes_extended() has a seed, but its steps can
 * be undone, so that whoever knows one value and its hash, such as his own phone, finds
 * the seed in 2^32 steps and with it all phones.  pg_hmac_create() would do, but takes
 * memory of a resource owner, and can fail; digests are also computed between
 * transactions, where there is no such owner.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "known/digest.h"

PG_FUNCTION_INFO_V1(kapture_merge_digests);
PG_FUNCTION_INFO_V1(kapture_seen_digests);

#define DIGEST_SIZE		((int) sizeof(uint64))

#ifndef DIGEST_KEPT				/* script/bench sees what they cost */
#define DIGEST_KEPT		true
#endif

/* Numbers of columns of kapture_salt. */
#define KAPTURE_SALT_SALT	1
#define KAPTURE_SALT_SERVER	2

/* The key in use. */
static uint64 digest_key[2];
static bool digest_has_key = false;

/* The rest of the key for the rows of a server; most servers have none. */
typedef struct DigestServer
{
	Oid			serverid;
	char		salt[16];
} DigestServer;

static DigestServer *digest_servers = NULL;
static int	digest_nservers = 0;

/* State of a hash that is being computed. */
typedef struct DigestState
{
	uint64		v[4];
	uint64		word;			/* bytes of an incomplete word, */
	int			nbytes;			/* and how many there are */
	uint64		len;			/* of all bytes so far */
} DigestState;

static inline uint64
digest_rotate(uint64 x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

/* SipHash's rounds, as its authors describe them. */
static void
digest_rounds(DigestState *s, int rounds)
{
	while (rounds-- > 0)
	{
		s->v[0] += s->v[1];
		s->v[2] += s->v[3];
		s->v[1] = digest_rotate(s->v[1], 13) ^ s->v[0];
		s->v[3] = digest_rotate(s->v[3], 16) ^ s->v[2];
		s->v[0] = digest_rotate(s->v[0], 32);
		s->v[2] += s->v[1];
		s->v[0] += s->v[3];
		s->v[1] = digest_rotate(s->v[1], 17) ^ s->v[2];
		s->v[3] = digest_rotate(s->v[3], 21) ^ s->v[0];
		s->v[2] = digest_rotate(s->v[2], 32);
	}
}

static void
digest_start(DigestState *s)
{
	s->v[0] = digest_key[0] ^ UINT64CONST(0x736f6d6570736575);
	s->v[1] = digest_key[1] ^ UINT64CONST(0x646f72616e646f6d);
	s->v[2] = digest_key[0] ^ UINT64CONST(0x6c7967656e657261);
	s->v[3] = digest_key[1] ^ UINT64CONST(0x7465646279746573);
	s->word = 0;
	s->nbytes = 0;
	s->len = 0;
}

static void
digest_take_word(DigestState *s)
{
	s->v[3] ^= s->word;
	digest_rounds(s, 2);
	s->v[0] ^= s->word;
	s->word = 0;
	s->nbytes = 0;
}

static void
digest_take(DigestState *s, const void *data, size_t len)
{
	const unsigned char *p = data;

	s->len += len;
	for (size_t i = 0; i < len; i++)
	{
		s->word |= (uint64) p[i] << (8 * s->nbytes);
		if (++s->nbytes == DIGEST_SIZE)
			digest_take_word(s);
	}
}

static uint64
digest_end(DigestState *s)
{
	s->word |= s->len << 56;
	digest_take_word(s);
	s->v[2] ^= 0xff;
	digest_rounds(s, 4);
	return s->v[0] ^ s->v[1] ^ s->v[2] ^ s->v[3];
}

/*
 * Sets the key, of sixteen bytes; NULL: there is none.
 */
void
kapture_digest_set_key(const char *key)
{
	digest_has_key = key != NULL;
	digest_key[0] = digest_key[1] = 0;
	for (int i = 0; key && i < sizeof(digest_key); i++)
		digest_key[i / DIGEST_SIZE] |= (uint64) (unsigned char) key[i] << (8 * (i % DIGEST_SIZE));
}

/*
 * Returns the hash of some bytes under that key, for the checks.
 */
uint64
kapture_digest_bytes(const char *data, size_t len)
{
	DigestState state;

	digest_start(&state);
	digest_take(&state, data, len);
	return digest_end(&state);
}

/* Takes over the rest of the key for a server. */
static void
digest_add_server(Oid serverid, const char *salt)
{
	static int	room = 0;

	if (digest_nservers == room)
	{
		int			more = room > 0 ? room * 2 : 16;
		Size		size = sizeof(DigestServer) * more;

		digest_servers = digest_servers ? repalloc(digest_servers, size) : MemoryContextAlloc(TopMemoryContext, size);
		room = more;
	}
	digest_servers[digest_nservers].serverid = serverid;
	memcpy(digest_servers[digest_nservers].salt, salt, sizeof(digest_servers[0].salt));
	digest_nservers++;
}

/*
 * Reads the key again: to be called in each transaction that reads or writes
 * digests.  Without a key, all digests are unknown.
 */
void
kapture_digest_load_key(void)
{
	Oid			relid = get_relname_relid("kapture_salt", get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)));
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	kapture_digest_set_key(NULL);
	digest_nservers = 0;
	if (!OidIsValid(relid))
		return;
	rel = table_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			serverid = DatumGetObjectId(kapture_catalog_getattr(tuple, rel, KAPTURE_SALT_SERVER));
		bytea	   *salt = DatumGetByteaPP(kapture_catalog_getattr(tuple, rel, KAPTURE_SALT_SALT));

		if (VARSIZE_ANY_EXHDR(salt) < sizeof(digest_key))
			continue;
		if (OidIsValid(serverid))
			digest_add_server(serverid, VARDATA_ANY(salt));
		else
			kapture_digest_set_key(VARDATA_ANY(salt));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * Returns the digest of a value that a customer of a server has for a field; 0: unknown, as
 * there is no value, or no key.
 */
uint64
kapture_digest(Oid serverid, int64 customer_id, const char *field, const char *value)
{
	DigestState state;
	uint64		result;

	if (!digest_has_key || customer_id == 0 || value == NULL || value[0] == '\0')
		return 0;
	digest_start(&state);
	for (int i = 0; i < digest_nservers; i++)
	{
		if (digest_servers[i].serverid == serverid)
			digest_take(&state, digest_servers[i].salt, sizeof(digest_servers[i].salt));
	}
	digest_take(&state, &customer_id, sizeof(customer_id));
	digest_take(&state, field, strlen(field) + 1);
	digest_take(&state, value, strlen(value));
	result = digest_end(&state);
	return result == 0 ? 1 : result;
}

/*
 * Returns the digest of the field with that bit; 0: unknown.
 */
uint64
kapture_digest_get(const bytea *digests, int bit)
{
	uint64		result;

	if (digests == NULL || VARSIZE_ANY_EXHDR(digests) < (bit + 1) * DIGEST_SIZE)
		return 0;
	memcpy(&result, VARDATA_ANY(digests) + bit * DIGEST_SIZE, DIGEST_SIZE);
	return result;
}

/*
 * Returns the digests of a row's values, as far as they are in the mask, in the
 * current memory context; NULL if there are none.
 */
bytea *
kapture_digest_make(const KaptureAttachment *att, int64 customer_id, char **values, int64 mask)
{
	uint64		digests[KAPTURE_MAX_COLUMNS] = {0};
	int			n = 0;
	bytea	   *result;

	for (int i = 0; DIGEST_KEPT && values && i < att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &att->columns[i];

		if ((mask & (INT64CONST(1) << col->bit)) == 0)
			continue;
		digests[col->bit] = kapture_digest(att->serverid, customer_id, col->field, values[i]);
		if (digests[col->bit] != 0)
			n = Max(n, col->bit + 1);
	}
	if (n == 0)
		return NULL;
	result = palloc(VARHDRSZ + n * DIGEST_SIZE);
	SET_VARSIZE(result, VARHDRSZ + n * DIGEST_SIZE);
	memcpy(VARDATA(result), digests, n * DIGEST_SIZE);
	return result;
}

/*
 * Makes the digests unknown whose bits are in the mask; they are not to be toasted.
 */
void
kapture_digest_forget(bytea *digests, int64 mask)
{
	for (int bit = 0; (bit + 1) * DIGEST_SIZE <= VARSIZE_ANY_EXHDR(digests); bit++)
	{
		if ((mask & (INT64CONST(1) << bit)) != 0)
			memset(VARDATA_ANY(digests) + bit * DIGEST_SIZE, 0, DIGEST_SIZE);
	}
}

/*
 * Returns, palloc'ed, the newer digest of each field, or the older one where the newer one
 * is unknown.
 */
bytea *
kapture_digest_merge(const bytea *older, const bytea *newer)
{
	Size		older_size = VARSIZE_ANY_EXHDR(older);
	Size		size = Max(older_size, VARSIZE_ANY_EXHDR(newer));
	bytea	   *result = palloc0(VARHDRSZ + size);

	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), VARDATA_ANY(older), older_size);
	for (int bit = 0; (bit + 1) * DIGEST_SIZE <= size; bit++)
	{
		uint64		digest = kapture_digest_get(newer, bit);

		if (digest != 0)
			memcpy(VARDATA(result) + bit * DIGEST_SIZE, &digest, DIGEST_SIZE);
	}
	return result;
}

/*
 * kapture_merge_digests(older bytea, newer bytea) returns bytea
 *
 * Either may be NULL.
 */
Datum
kapture_merge_digests(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) && PG_ARGISNULL(1))
		PG_RETURN_NULL();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_DATUM(PG_GETARG_DATUM(PG_ARGISNULL(0) ? 1 : 0));
	PG_RETURN_BYTEA_P(kapture_digest_merge(PG_GETARG_BYTEA_PP(0), PG_GETARG_BYTEA_PP(1)));
}

/*
 * kapture_seen_digests(digests bytea, server oid, customer_id bigint, bits smallint[],
 *		fields text[], names text[], seen text[]) returns bytea
 *
 * The digests of a row, without those of fields of which Kapture was seen to have another
 * value: "fields" are the row's fields, with their bits, "seen" the values of the fields
 * "names", NULL where nothing is known.  The caller has loaded the key.
 */
Datum
kapture_seen_digests(PG_FUNCTION_ARGS)
{
	bytea	   *result = PG_GETARG_BYTEA_P_COPY(0);
	Datum	   *columns[4];
	bool	   *nulls;
	int			n[4];

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(3), INT2OID, 2, true, TYPALIGN_SHORT, &columns[0], NULL, &n[0]);
	for (int i = 1; i < lengthof(columns); i++)
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(i + 3), TEXTOID, -1, false, TYPALIGN_INT, &columns[i],
						  i == 3 ? &nulls : NULL, &n[i]);
	for (int i = 0; digest_has_key && i < Min(n[0], n[1]); i++)
	{
		int			bit = DatumGetInt16(columns[0][i]);
		char	   *field = TextDatumGetCString(columns[1][i]);
		uint64		known = kapture_digest_get(result, bit);

		for (int k = 0; known != 0 && k < Min(n[2], n[3]); k++)
		{
			if (!nulls[k] && strcmp(TextDatumGetCString(columns[2][k]), field) == 0 &&
				kapture_digest(PG_GETARG_OID(1), PG_GETARG_INT64(2), field, TextDatumGetCString(columns[3][k])) != known)
				memset(VARDATA(result) + bit * DIGEST_SIZE, 0, DIGEST_SIZE);
		}
	}
	PG_RETURN_BYTEA_P(result);
}
