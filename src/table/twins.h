/*
 * twins.h
 *		Tells rows apart that have one key for a while.
 */
#ifndef KAPTURE_TWINS_H
#define KAPTURE_TWINS_H

#include "postgres.h"

#include "access/htup.h"
#include "utils/rel.h"

#include "base/catalog.h"

extern List *kapture_twins_indexes(List *indexes, Relation rel, const KaptureAttachment *att);
extern bool kapture_twins_any(void);
extern void kapture_twins_watch(Relation rel, List *indexes, HeapTuple tuple, CommandId cid);
extern int32 kapture_twins_arrival(int32 attachment_id, Relation rel, HeapTuple tuple, CommandId cid);
extern void kapture_twins_note(int32 attachment_id, Relation rel, HeapTuple tuple, int32 arrival);

#endif							/* KAPTURE_TWINS_H */
