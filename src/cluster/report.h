/*
 * report.h
 *		Names of the states of servers.
 */
#ifndef KAPTURE_REPORT_H
#define KAPTURE_REPORT_H

#include "postgres.h"

#include "cluster/shmem.h"

extern const char *kapture_report_state_name(KaptureServerState state);

#endif							/* KAPTURE_REPORT_H */
