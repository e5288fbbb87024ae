/*
 * header.h
 *		Is the value of a header likely to be a secret?
 */
#ifndef KAPTURE_HEADER_H
#define KAPTURE_HEADER_H

#include "postgres.h"

extern bool kapture_header_is_secret(const char *header);

#endif							/* KAPTURE_HEADER_H */
