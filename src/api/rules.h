/*
 * rules.h
 *		What Kapture takes, by the rules of its document; and kapture_phone().
 */
#ifndef KAPTURE_RULES_H
#define KAPTURE_RULES_H

#include "postgres.h"

extern const char *kapture_rules_refusal(bool is_add, const char *name, const char *phone, const char *email);

#endif							/* KAPTURE_RULES_H */
