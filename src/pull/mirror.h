/*
 * mirror.h
 *		Writes windows of a pull into kapture_customers and kapture_contacts.
 */
#ifndef KAPTURE_MIRROR_H
#define KAPTURE_MIRROR_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "fetch/fetch.h"

/* The outcome of writing one window. */
typedef struct KaptureCopied
{
	int64		seen;			/* customers that had not come before in the fetch */
	int64		written;		/* rows of both tables that were new or differed */
	TimestampTz newest;			/* latest generation date, DT_NOBEGIN: none */
} KaptureCopied;

typedef struct KaptureCopies KaptureCopies;

extern KaptureCopies *kapture_copies_create(Oid namespace, const char *server, const char *timezone);
extern void kapture_copies_hold_name(KaptureCopies *copies);
extern void kapture_copies_write(KaptureCopies *copies, const KaptureWindow *window, KaptureCopied *copied);
extern void kapture_copies_write_as_owner(KaptureCopies *copies, const KaptureWindow *window, KaptureCopied *copied);
extern void kapture_copies_merge(KaptureCopies *copies);
extern bool kapture_copies_lock(Oid serverid);
extern void kapture_copies_unlock(Oid serverid);
extern bool kapture_copies_begin_rename(const char *name);
extern void kapture_copies_follow_rename(const char *from, const char *to);
extern void kapture_copies_execute(const char *sql, int nargs, Oid *types, Datum *values,
								   const char *nulls, int expected);

#endif							/* KAPTURE_MIRROR_H */
