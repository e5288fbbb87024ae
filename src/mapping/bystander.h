/*
 * bystander.h
 *		Updates attachments for commands of users whom these need not concern.
 */
#ifndef KAPTURE_BYSTANDER_H
#define KAPTURE_BYSTANDER_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_bystander_hurry(void);
extern void kapture_bystander_check_names(const char *sql);
extern bool kapture_bystander_may_parse(List **parsed, Oid owner, Size bytes);
extern uint64 kapture_bystander_execute(Oid relid, const char *sql, int nargs, Oid *types, Datum *values);

#endif							/* KAPTURE_BYSTANDER_H */
