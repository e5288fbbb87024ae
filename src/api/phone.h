/*
 * phone.h
 *		kapture_phone(): phone numbers as people write them, as Kapture takes them.
 */
#ifndef KAPTURE_PHONE_H
#define KAPTURE_PHONE_H

#include "postgres.h"

/* Digits of a number that Kapture takes. */
#define KAPTURE_PHONE_DIGITS	10

extern bool kapture_phone_is_valid(const char *phone, size_t len);
extern bool kapture_phone_normalize(const char *text, size_t len, char phone[KAPTURE_PHONE_DIGITS + 1]);

#endif							/* KAPTURE_PHONE_H */
