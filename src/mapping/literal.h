/*
 * literal.h
 *		Refuses literals whose parsing runs users' code.
 */
#ifndef KAPTURE_LITERAL_H
#define KAPTURE_LITERAL_H

#include "nodes/nodes.h"

extern bool kapture_literal_runs_code(Oid type);
extern void kapture_literal_check(Node *expression, const char *what);

#endif							/* KAPTURE_LITERAL_H */
