/* kapture_sync: from version 1.0 to 1.1; with kapture_sync.sql, which must come to the same */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION kapture_sync UPDATE TO '1.1'" to load this file. \quit

