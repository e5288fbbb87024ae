/*
 * url.h
 *		Is a text the URL of a server, or a path below it?
 */
#ifndef KAPTURE_URL_H
#define KAPTURE_URL_H

#include "postgres.h"

extern bool kapture_url_is_valid(const char *url, bool *is_https,
								 bool *is_loopback, const char **why);
extern char *kapture_url_join(const char *base, const char *path, const char **why);

#endif							/* KAPTURE_URL_H */
