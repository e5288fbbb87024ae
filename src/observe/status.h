/*
 * status.h
 *		What states are called.
 */
#ifndef KAPTURE_STATUS_H
#define KAPTURE_STATUS_H

#include "postgres.h"

#include "cluster/shmem.h"

extern const char *kapture_status_state_name(KaptureServerState state);

#endif							/* KAPTURE_STATUS_H */
