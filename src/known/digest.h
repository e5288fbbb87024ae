/*
 * digest.h
 *		Keyed hashes of the values that Kapture has of a row.
 */
#ifndef KAPTURE_DIGEST_H
#define KAPTURE_DIGEST_H

#include "postgres.h"

#include "base/catalog.h"

extern void kapture_digest_set_key(const char *key);
extern uint64 kapture_digest_bytes(const char *data, size_t len);
extern void kapture_digest_load_key(void);
extern uint64 kapture_digest(Oid serverid, int64 customer_id, const char *field, const char *value);
extern uint64 kapture_digest_get(const bytea *digests, int bit);
extern bytea *kapture_digest_make(const KaptureAttachment *att, int64 customer_id, char **values, int64 mask);
extern void kapture_digest_forget(bytea *digests, int64 mask);
extern bytea *kapture_digest_merge(const bytea *older, const bytea *newer);

#endif							/* KAPTURE_DIGEST_H */
