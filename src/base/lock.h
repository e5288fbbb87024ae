/*
 * lock.h
 *		Locks that are kept over transactions, and the lock of an attached table.
 */
#ifndef KAPTURE_LOCK_H
#define KAPTURE_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

extern bool kapture_lock_keep(const LOCKTAG *tag);
extern void kapture_lock_drop(const LOCKTAG *tag);
extern void kapture_lock_renew(void);
extern bool kapture_lock_attachment(int32 attachment_id, LOCKMODE mode, bool wait);

#endif							/* KAPTURE_LOCK_H */
