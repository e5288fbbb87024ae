/*
 * problem_advice.h
 *		Reports attachments that a command has left with a problem.
 */
#ifndef KAPTURE_PROBLEM_ADVICE_H
#define KAPTURE_PROBLEM_ADVICE_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

extern bool kapture_problem_may_come(Node *stmt);
extern List *kapture_problem_before(Node *stmt);
extern void kapture_problem_after(Node *stmt, List *before);

#endif							/* KAPTURE_PROBLEM_ADVICE_H */
