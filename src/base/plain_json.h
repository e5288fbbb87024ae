/*
 * plain_json.h
 *		JSON in which nothing is out of the ordinary, to jsonb at once.
 */
#ifndef KAPTURE_PLAIN_JSON_H
#define KAPTURE_PLAIN_JSON_H

#include "postgres.h"

#include "utils/jsonb.h"

extern Jsonb *kapture_plain_json(const char *text, size_t len);

#endif							/* KAPTURE_PLAIN_JSON_H */
