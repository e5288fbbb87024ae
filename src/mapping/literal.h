/*
 * literal.h
 *		Literals whose reading runs code of users.
 */
#ifndef KAPTURE_LITERAL_H
#define KAPTURE_LITERAL_H

#include "nodes/nodes.h"

extern void kapture_literal_check(Node *expression, const char *what);

#endif							/* KAPTURE_LITERAL_H */
