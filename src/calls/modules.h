/*
 * modules.h
 *		The APIs of Kapture's modules other than customers.
 */
#ifndef KAPTURE_MODULES_H
#define KAPTURE_MODULES_H

#include "postgres.h"

#include "api/option.h"

extern KaptureServer *kapture_module_bind(const KaptureServer *server, const char *api);
extern const char *kapture_module_counted_name(int counted_as);

#endif							/* KAPTURE_MODULES_H */
