/*
 * privileges.h
 *		Privileges on what the extension's scripts make.
 */
#ifndef KAPTURE_PRIVILEGES_H
#define KAPTURE_PRIVILEGES_H

#include "postgres.h"

#include "nodes/parsenodes.h"

extern void kapture_privileges_advise(const GrantStmt *stmt);

#endif							/* KAPTURE_PRIVILEGES_H */
