/*
 * modules.h
 *		Tickets and other modules.
 */
#ifndef MODULES_H
#define MODULES_H

#include "api.h"
#include "buf.h"

extern bool module_by_path(const char *path, Api *api);
extern void module_perform(const ApiRequest *request, Reply *reply);
extern void module_list(Buf *out);
extern void module_reset(void);

#endif
