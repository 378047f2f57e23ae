# What there is to do here. `make help` lists it.

CC       = cc
CFLAGS   = -O2 -g
WARNINGS = -std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STAGES   = $(sort $(wildcard 0[1-6]-*))
NUMBERS  = $(foreach s,$(STAGES),$(firstword $(subst -, ,$(s))))
PROGRAMS = $(patsubst %.c,build/%,$(sort $(wildcard 0[1-6]-*/*.c)))
SUITES   = 06 05 04 03 02 01 edge docs
TOOLS    = build/peer build/faults.so

# STAGE=03, STAGE=3 and STAGE=03-select mean the same.
stage = $(firstword $(foreach s,$(STAGES),$(if $(filter $(STAGE) 0$(STAGE)-%,$(s))$(filter $(STAGE)-%,$(s)),$(s))))
ifdef STAGE
ifeq ($(stage),)
$(error STAGE=$(STAGE) is none of $(NUMBERS))
endif
endif

ifneq ($(SERVER)$(CLIENT),)
ifeq ($(STAGE)$(filter-out test,$(MAKECMDGOALS)),)
$(error say for which stage: make test STAGE=01 SERVER=./mine)
endif
endif

all: $(PROGRAMS) $(TOOLS)

help:
	@echo 'make demo              the course in half a minute, played live; STAGE=03 plays one'
	@echo 'make                   build every program: build/03-select/server and so on'
	@echo 'make test              all steps of all stages'
	@echo 'make test STAGE=03     the steps of 03, then those of 01 and 02 that still hold'
	@echo 'make test STAGE=03 SERVER=./mine CLIENT=./other'
	@echo '                       the same for programs of your own, in any language'
	@echo 'make lesson STAGE=03   what changes from the server of 02 to that of 03'
	@echo 'make ladder            lines of code, and lines changed, from stage to stage'
	@echo 'make bench             CPU time a message, each server beside the plainest epoll loop'
	@echo 'make lint              formatting, warnings and static analysis'
	@echo 'make clean             remove build/'
	@echo
	@echo 'Beside the ladder, after make, on the port in brackets or on one that you give:'
	@echo '  build/01-blocking/greeter          who is being served, by a greeting (8001)'
	@echo '  build/01-blocking/threads          a thread for each client (10000)'
	@echo '  build/03-select/chat               a chat room for nc and telnet (8008)'
	@echo '  build/03-select/two-ports          several listeners in one select (8001 and 8002)'
	@echo '  build/04-poll/revents              what poll, select and epoll report here'
	@echo '  build/05-epoll/edge                the server of 05, edge-triggered (10000)'
	@echo '  build/05-epoll/callbacks           an event loop; --slow MS, --worker (10000)'
	@echo '  build/06-timeouts/select-timeout   the plain timeout of select (10000)'

# Each program is one file. We ask for every warning; you need not: cc server.c -o server.
build/0%: 0%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) -pthread $< -o $@.new && mv $@.new $@

build/peer: tests/lib/peer.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@

build/faults.so: tests/lib/faults.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) -fPIC -shared $< -o $@ -ldl

build/bench/plain: tests/bench/plain.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@

bench: all build/bench/plain
	@tests/bench/bench

demo: all
	@tests/demo/demo $(firstword $(subst -, ,$(stage)))

ifdef STAGE
test: all
	@tests/run $(firstword $(subst -, ,$(stage)))
else
# Stages side by side, those that take longest first. Each keeps quiet until it is done.
test: all
	@tests/run --prepare
	@$(MAKE) --no-print-directory --keep-going --jobs=5 --output-sync=target $(SUITES:%=test-%); \
	status=$$?; tests/run --total; exit $$status
endif

$(SUITES:%=test-%): test-%:
	@tests/run --brief $*

lesson:
	@tests/ladder $(firstword $(subst -, ,$(stage)))

ladder:
	@tests/ladder

lint:
	@tests/lint

clean:
	rm -rf build

.PHONY: all help bench demo test lesson ladder lint clean $(SUITES:%=test-%)
