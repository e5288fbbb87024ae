/*
 * status.h
 *		What states are called.
 */
#ifndef KAPTURE_STATUS_H
#define KAPTURE_STATUS_H

#include "postgres.h"

#include "cluster/shmem.h"


#endif							/* KAPTURE_STATUS_H */
