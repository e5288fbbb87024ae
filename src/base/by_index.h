/*
 * by_index.h
 *		Has statements on the extension's own tables planned for tables that may
 *		be huge.
 */
#ifndef KAPTURE_BY_INDEX_H
#define KAPTURE_BY_INDEX_H

extern void kapture_by_index_install(void);
extern int	kapture_by_index_begin(void);

#endif							/* KAPTURE_BY_INDEX_H */
