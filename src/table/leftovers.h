/*
 * leftovers.h
 *		Closes what users' code leaves open in worker and puller.
 */
#ifndef KAPTURE_LEFTOVERS_H
#define KAPTURE_LEFTOVERS_H

extern void kapture_leftovers_close(void);
extern void kapture_leftovers_forget(void);

#endif							/* KAPTURE_LEFTOVERS_H */
