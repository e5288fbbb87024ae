# kapture_sync: plain PGXS.  "make", "make install", "make installcheck", each with PG_CONFIG=... if need be.
EXTENSION = kapture_sync
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" kapture_sync.control)

MODULE_big = kapture_sync
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
PGFILEDESC = "kapture_sync - keeps a customers table and the Kapture CRM in step"

# Scripts of the version that is not released yet; see CONTRIBUTING.md.
UPGRADES = $(patsubst sql/upgrade--%.sql,sql/kapture_sync--%.sql,$(wildcard sql/upgrade--*--$(EXTVERSION).sql))
DATA_built = sql/kapture_sync--$(EXTVERSION).sql $(UPGRADES)
DATA = $(filter-out $(DATA_built),$(wildcard sql/kapture_sync--*.sql))

# The tests that need nothing but a server with the library preloaded; and, given
# the address of an emulator, those that need Kapture.
REGRESS = attach capture expressions shapes options call_errors hints phone
ifdef KAPTURE_EMULATOR_URL
REGRESS += calls pull_rows foreign_tables foreign_writes
endif
REGRESS_OPTS = --inputdir=test --load-extension=kapture_sync

PG_CFLAGS = -Wall -Wextra -Werror=missing-prototypes -Werror=implicit-function-declaration -Werror=return-type -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $(shell curl-config --cflags 2>/dev/null)
# A server built with gcc leaves its own flags and attributes in PGXS and headers.
PG_CFLAGS += $(if $(findstring clang,$(CC)),-Wno-ignored-attributes -Wno-unknown-warning-option -Wno-ignored-optimization-argument)
# The version of the SQL objects that the library works with.
PG_CPPFLAGS = -I$(srcdir)/src -DKAPTURE_SQL_VERSION='"$(EXTVERSION)"'
SHLIB_LINK = -lcurl
EXTRA_CLEAN = $(DATA_built) test/emulator/kapture-emulator test/unit/kapture_units.so $(wildcard test/faults/*)

ifneq ($(filter emulator,$(MAKECMDGOALS)),)
ifneq ($(shell printf '\043include <jansson.h>\n\043include <microhttpd.h>\n' | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && echo found),found)
$(error the headers of libmicrohttpd and jansson, which the emulator is built with, are not there: install them (Debian: libmicrohttpd-dev and libjansson-dev))
endif
endif

# Everything but these two needs PostgreSQL's headers, and what compiles needs libcurl's.
ifneq ($(filter-out emulator dist,$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(error "$(PG_CONFIG)" is not there, or does not know where the headers of PostgreSQL's server are: install them (Debian: postgresql-server-dev-15, or of another version), or set PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)
ifneq ($(filter-out emulator dist clean distclean maintainer-clean uninstall installcheck,$(or $(MAKECMDGOALS),all)),)
ifneq ($(shell printf '\043include <curl/curl.h>\n\043if LIBCURL_VERSION_NUM < 0x075500\n\043error\n\043endif\n' | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && echo found),found)
$(error the headers of libcurl, 7.85 or later, are not there: install them (Debian: libcurl4-openssl-dev))
endif
endif
endif

# $(call script,what,command): a script that PostgreSQL runs, of its prerequisites.
define script
	@mkdir -p $(@D)
	@( printf '%s\n' '/* kapture_sync: $(1) */' '' \
	'-- complain if script is sourced in psql, rather than via $(firstword $(2)) EXTENSION' \
	'\echo Use "$(2)" to load this file. \quit' '' \
	"-- Names without a schema are PostgreSQL's own, whatever operators and functions" \
	"-- somebody has planted in the extension's schema that would fit better." \
	'SET LOCAL search_path = pg_catalog, pg_temp;'; \
	for part in $^; do echo; cat $$part; done ) > $@
endef
OBJECTS = sql/functions.sql sql/views.sql sql/privileges.sql
sql/kapture_sync--$(EXTVERSION).sql: sql/tables.sql $(OBJECTS) sql/install.sql
	$(call script,version $(EXTVERSION),CREATE EXTENSION kapture_sync)
$(UPGRADES): sql/kapture_sync--%.sql: sql/upgrade--%.sql $(OBJECTS) sql/upgrade_end--%.sql
	$(call script,from version $(subst --, to ,$*),ALTER EXTENSION kapture_sync UPDATE TO '"'$(EXTVERSION)'"')

$(OBJS): $(wildcard src/*.h src/*/*.h)
src/api/http.o src/base/version.o src/push/worker.o: kapture_sync.control

# The Kapture API as a small C server, for tests, demo and benchmarks.
emulator: test/emulator/kapture-emulator
test/emulator/kapture-emulator: $(wildcard test/emulator/*.c test/emulator/*.h)
	$(CC) -O2 -g -Wall -Wextra -std=gnu11 -o $@ $(filter %.c,$^) -lmicrohttpd -ljansson -lpthread

# Checks of the modules that do no I/O, for test/t/095_units.pl.
units: test/unit/kapture_units.so
test/unit/kapture_units.so: $(wildcard test/unit/*.c test/unit/*.h) $(OBJS)
	$(CC) $(CFLAGS) $(CFLAGS_SL) $(CPPFLAGS) -shared -o $@ $(filter %.c %.o,$^) $(LDFLAGS) $(SHLIB_LINK)

# The library with fault points, for test/t/038_fault_points.pl.
FAULT_OPTIMIZE = -O1
FAULT_OBJS = $(patsubst src/%.c,test/faults/%.o,$(sort $(wildcard src/*.c src/*/*.c)))
fault_points: test/faults/kapture_sync.so
test/faults/%.o: src/%.c $(wildcard src/*.h src/*/*.h) kapture_sync.control
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(CFLAGS_SL) $(FAULT_OPTIMIZE) -DKAPTURE_FAULT_POINTS -DPACING_FIRST=100 -include base/fault.h -c -o $@ $<
test/faults/kapture_sync.so: $(FAULT_OBJS)
	$(CC) $(CFLAGS) -shared -o $@ $(FAULT_OBJS) $(LDFLAGS) $(LDFLAGS_SL) $(SHLIB_LINK)

# The source as it is committed, under the name and in the forms that PGXN and
# Debian want; of the same commit always the same bytes.
DIST = kapture_sync-$(shell sed -n 's/^\t"version": "\(.*\)",/\1/p' META.json | head -1)
dist:
	TZ=UTC git archive --format=zip --prefix=$(DIST)/ -o $(DIST).zip HEAD
	git archive --format=tar --prefix=$(DIST)/ HEAD | gzip -n9 > $(DIST).tar.gz

.PHONY: emulator units fault_points dist
