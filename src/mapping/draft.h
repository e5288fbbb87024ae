/*
 * draft.h
 *		Describes a table as if it were attached.
 */
#ifndef KAPTURE_DRAFT_H
#define KAPTURE_DRAFT_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "mapping/field_map.h"
#include "mapping/source.h"

extern KaptureAttachment *kapture_draft_make(Relation rel, const char *server, const char *id_column,
											 List *mappings, const KaptureGivenExpression *filter,
											 const KaptureGivenSource *source);
extern KaptureAttachment *kapture_draft_alter(const KaptureAttachment *att, Relation rel, List *mappings,
											  const KaptureGivenExpression *filter, const KaptureGivenSource *source);
extern void kapture_draft_readdress(KaptureAttachment *draft, const char *server);

#endif							/* KAPTURE_DRAFT_H */
