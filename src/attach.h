/*
 * attach.h
 *		Finds an attachment for SQL functions that act on one.
 */
#ifndef KAPTURE_ATTACH_H
#define KAPTURE_ATTACH_H

#include "postgres.h"

#include "fmgr.h"
#include "storage/lockdefs.h"

#include "catalog.h"

extern KaptureAttachment *kapture_attach_find(FunctionCallInfo fcinfo, LOCKMODE lockmode,
											  char **name);

#endif							/* KAPTURE_ATTACH_H */
