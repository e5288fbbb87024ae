/*
 * dry_draft.h
 *		Which attachment a dry run is about.
 */
#ifndef KAPTURE_DRY_DRAFT_H
#define KAPTURE_DRY_DRAFT_H

#include "postgres.h"

#include "fmgr.h"

#include "base/catalog.h"

/* Arguments of kapture_dry_run(). */
typedef enum DryArgument
{
	DRY_RELATION,
	DRY_COLUMNS,
	DRY_FILTER,
	DRY_SOURCE,
	DRY_SERVER,
	DRY_ASK,
	DRY_NAME
} DryArgument;

extern KaptureAttachment *kapture_dry_draft(FunctionCallInfo fcinfo, int64 *fresh);

#endif							/* KAPTURE_DRY_DRAFT_H */
