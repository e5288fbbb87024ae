/*
 * guc.h
 *		The kapture_sync.* settings, and the search_path for code of ours.
 */
#ifndef KAPTURE_GUC_H
#define KAPTURE_GUC_H

#include "postgres.h"

extern bool kapture_enabled;
extern bool kapture_capture_enabled;
extern char *kapture_excluded_databases;
extern int	kapture_history_retention;
extern bool kapture_notify;
extern double kapture_notify_parked_share;

extern void kapture_guc_define(void);
extern bool kapture_guc_database_is_excluded(const char *dbname);
extern void kapture_guc_pin_search_path(void);

#endif							/* KAPTURE_GUC_H */
