/*
 * followed.h
 *		Changes of tables that attached ones follow.
 */
#ifndef KAPTURE_FOLLOWED_H
#define KAPTURE_FOLLOWED_H

#include "postgres.h"

#include "push/state.h"

extern void kapture_followed_find(Worker *worker);

#endif							/* KAPTURE_FOLLOWED_H */
