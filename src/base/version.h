/*
 * version.h
 *		Is the extension in this database of the version that the library needs?
 */
#ifndef KAPTURE_VERSION_H
#define KAPTURE_VERSION_H

#include "postgres.h"

extern char *kapture_version_installed(void);
extern int	kapture_version_compare(const char *installed);
extern const char *kapture_version_hint(const char *installed);
extern void kapture_version_require(void);

#endif							/* KAPTURE_VERSION_H */
