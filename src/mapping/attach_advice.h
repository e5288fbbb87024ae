/*
 * attach_advice.h
 *		What is reported to those who attach and detach tables.
 */
#ifndef KAPTURE_ATTACH_ADVICE_H
#define KAPTURE_ATTACH_ADVICE_H

#include "postgres.h"

#include "base/catalog.h"

extern void kapture_advice_attached(const KaptureAttachment *att, const char *hint);
extern void kapture_advice_duplicates(const KaptureAttachment *att);
extern void kapture_advice_given_up(const KaptureAttachment *att);
extern void kapture_advice_column_dropped(Oid relid, AttrNumber attnum);
extern void kapture_advice_table_dropped(Oid relid);
extern void kapture_advice_on_conflict(const char *on_conflict, bool pull);

#endif							/* KAPTURE_ATTACH_ADVICE_H */
