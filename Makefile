# `make help` lists the targets.

CC       = cc
CFLAGS   = -O2 -g
WARNINGS = -std=c11 -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STAGES   = $(sort $(wildcard [0-9][0-9]-*))
NUMBERS  = $(foreach s,$(STAGES),$(firstword $(subst -, ,$(s))))
SOURCES  = $(filter-out $(WITHOUT),$(sort $(wildcard $(STAGES:%=%/*.c))))
PROGRAMS = $(SOURCES:%.c=$(BUILD)/%)
# What make test runs, in this order. 05, 01 and docs wait longest. The server of 02 never sleeps: the more of it
# runs beside other suites, the less is left for them.
SUITES  := 05 01 02 03 06 docs
SUITES  += $(filter-out $(SUITES),$(NUMBERS))
# What ALL=1 adds: the steps of 05 on companions that are such a server, too, and the tests of the course's tools.
ifneq ($(ALL)$(SANITIZE)$(COVERAGE),)
SUITES  := edge workers uring grade exercise $(SUITES) demo
endif
TOOLS    = $(BUILD)/peer $(BUILD)/faults.so
BUILD    = build

# uring.c needs the kernel's headers of Linux 5.19 or newer, and is left out where they are missing.
WITHOUT := $(shell tests/lib/has-uring-headers $(CC) || echo 05-epoll/uring.c)

# STAGE=03, STAGE=3 and STAGE=03-select mean the same.
stage = $(firstword $(foreach s,$(STAGES),$(if $(filter $(STAGE) 0$(STAGE)-%,$(s))$(filter $(STAGE)-%,$(s)),$(s))))
ifdef STAGE
ifeq ($(stage),)
$(error there is no stage $(STAGE): choose one of $(NUMBERS))
endif
endif
number = $(firstword $(subst -, ,$(stage)))

ifneq ($(SERVER)$(CLIENT),)
ifeq ($(STAGE)$(filter-out test,$(MAKECMDGOALS)),)
$(error SERVER and CLIENT need a stage: make test STAGE=01 SERVER=./mine)
endif
endif

# SANITIZE=1: the tests run programs that are built with sanitizers, in a directory of their own. After a
# report a program exits with status 99, which no test expects. The tests end a program by SIGUSR2: see tests/lib/finish.c.
# Programs with threads are built twice, because ThreadSanitizer does not go with the others.
ifdef SANITIZE
BUILD      = build/sanitize
SANITIZERS = -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all
FLAGS      = $(SANITIZERS) -fsanitize=address,undefined
THREADED   = $(shell grep -l '<pthread.h>' $(SOURCES))
PROGRAMS  += $(THREADED:%.c=$(BUILD)/threads/%)
# Otherwise a step builds it by itself, with AddressSanitizer.
export CALLBACKS = $(BUILD)/05-epoll/callbacks
FINISH     = $(BUILD)/finish.o
SUITES    := $(filter-out docs exercise grade demo,$(SUITES)) races
export FINISH_SIGNAL = USR2
export ASAN_OPTIONS  = exitcode=99:strict_string_checks=1:quarantine_size_mb=1:thread_local_quarantine_size_kb=64
export LSAN_OPTIONS  = exitcode=99
export UBSAN_OPTIONS = print_stacktrace=1
export TSAN_OPTIONS  = exitcode=99:halt_on_error=1
export SLOW         ?= 3
else ifdef COVERAGE
BUILD        = build/coverage
FLAGS        = -g -O0 --coverage -fprofile-update=atomic
FINISH       = $(BUILD)/finish.o
FINISH_FLAGS = -DCOVERAGE
SUITES      := $(filter-out docs exercise grade demo,$(SUITES))
export FINISH_SIGNAL = USR2
export SLOW         ?= 3
export CALLBACKS     = $(BUILD)/05-epoll/callbacks
else
FLAGS      = $(CFLAGS)
endif
export BUILD

all: $(PROGRAMS) $(TOOLS)

help:
	@echo 'To learn:'
	@echo '  make demo              watch the course in half a minute; STAGE=03 shows one stage'
	@echo '  make bytes STAGE=03    see where the bytes are while a client does not read; SERVER=./mine'
	@echo '  make start STAGE=01    put a file to begin with into mine/; 02 continues your own 01'
	@echo '  make check             build it, run its steps in order, and stop at the first that fails'
	@echo '  make hint              show the next hint for that step'
	@echo '  make watch             check again each time that you save the file'
	@echo '  make lesson            show your server beside ours, and what ours changed;'
	@echo '                         STAGE=03 shows what changes from the server of 02 to that of 03'
	@echo '  make break             list the classic mistakes by symptom (STAGE=03);'
	@echo '                         ID=no-sigpipe-guard shows one live: what it does, and how to repair it'
	@echo '  make test STAGE=03 SERVER=./mine'
	@echo '                         check a program of your own, in any language: "python3 mine.py"'
	@echo
	@echo '  make start takes WHAT=client, and FROM=reference to continue our file instead of yours.'
	@echo '  make check takes STEP=01.6 (one step), KEEP_GOING=1 (all failures), SLOW=3 (three times as'
	@echo '  long, for a slow machine), STAGE, SERVER, CLIENT, CFLAGS="-fsanitize=address,undefined",'
	@echo '  and PROGRAM=chat SERVER=mine/chat for a companion.'
	@echo
	@echo 'To teach:'
	@echo '  make grade STAGE=03 SERVER=ana/server.c'
	@echo '                         run all steps of 03, and write a score as JSON and JUnit XML into'
	@echo '                         build/grade/ or RESULTS=DIR; "In a class" in tests/README.md tells more'
	@echo
	@echo 'To work on the course:'
	@echo '  make                   build every program: build/03-select/server and so on'
	@echo '  make test              run all steps of all stages'
	@echo '  make test STAGE=03     run the steps of 03, then those of 01 and 02 that still hold'
	@echo '  make test ALL=1        the same, the steps of 05 on edge.c, workers.c and uring.c, and the tests'
	@echo '                         of the tools'
	@echo '  make test SANITIZE=1   the same, with programs built with sanitizers in build/sanitize'
	@echo '  make ladder            count lines of code, and those that change, against their limits'
	@echo '  make mistakes          make every known mistake, and check that its step fails (STAGE=03)'
	@echo '  make torture           make every call of every program fail, in every way that it can;'
	@echo '                         SECONDS=60 takes a random sample for a minute (STAGE=03)'
	@echo '  make bench             measure what the servers cost, in under five minutes (PART=idle, QUICK=1);'
	@echo '                         ACCEPT=1 records the figures that the texts show'
	@echo '  make lint              check formatting, warnings and static analysis'
	@echo '  make valgrind          run each program under valgrind, in one scene (PROGRAM=03-select/server)'
	@echo '  make coverage          list the lines of the programs that no test reaches'
	@echo '  make fuzz SECONDS=60   fuzz what parses and escapes input (TARGET=chat)'
	@echo '  make soak MINUTES=5    play random clients of every kind against all servers (SEED=7, SERVERS=...)'
	@echo '  make clean             remove build/'
	@echo
	@echo 'Companion programs, built by make (in brackets the port, unless you give one):'
	@bash -c '. tests/lib/stages.bash && list_companions'

# Each program is one file. The flags ask for every warning; cc server.c -o server builds it, too. $$$$ is the
# shell's process ID: two runs of make at the same time do not write the same file.
$(BUILD)/0%: 0%.c Makefile $(FINISH)
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(FLAGS) -pthread $< $(FINISH) -o $@.$$$$ && mv $@.$$$$ $@

build/sanitize/threads/%: %.c Makefile build/sanitize/finish.o
	@mkdir -p $(@D)
	@test -e build/sanitize/no-races || { set -x; \
	$(CC) $(WARNINGS) $(SANITIZERS) -fsanitize=thread -pthread $< build/sanitize/finish.o -o $@; }

$(BUILD)/finish.o: tests/lib/finish.c Makefile tests/lib/sanitizers
	@mkdir -p $(@D)
	@$(if $(SANITIZE),CC='$(CC)' tests/lib/sanitizers $(@D))
	$(CC) $(WARNINGS) -O2 $(FINISH_FLAGS) -c $< -o $@

$(BUILD)/peer: tests/lib/peer.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@.$$$$ && mv $@.$$$$ $@

build/soak: tests/soak/soak.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@

$(BUILD)/faults.so: tests/lib/faults.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) -fPIC -shared $< -o $@.$$$$ -ldl && mv $@.$$$$ $@

build/torture/faults.so: tests/lib/faults.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) -DWITH_MEMORY -fPIC -shared $< -o $@ -ldl

build/torture/torture: tests/torture/torture.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@

build/bench/%: tests/bench/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@.$$$$ && mv $@.$$$$ $@

bench: all build/bench/plain build/bench/ready
	@tests/bench/bench

demo: all
	@tests/demo/demo $(number)

bytes: $(BUILD)/peer $(stage:%=$(BUILD)/%/server)
	@tests/demo/bytes $(number)
.PHONY: bytes

# A learner's program, or two. Nothing else is built, and the run stops at the first failure.
ifneq ($(SERVER)$(CLIENT),)
test: check
else ifdef STAGE
test: all
	@tests/run $(number)
	@$(if $(SANITIZE),tests/run races $(number))
else
# Four suites run side by side. Each prints its results when it is done.
test: all
	@tests/run --prepare
	@$(MAKE) --no-print-directory --keep-going --jobs=4 --output-sync=target $(SUITES:%=test-%); \
	status=$$?; tests/run --total; exit $$status
endif

$(SUITES:%=test-%): test-%:
	@tests/run --brief $*

# These build what they need.
start check hint watch grade:
	@tests/exercise/$@ $(number)

mistakes:
	@STAGE=$(number) tests/mistakes/run

break:
	@STAGE=$(number) tests/mistakes/break

torture:
	@STAGE=$(number) tests/torture/run

ifdef STAGE
lesson:
	@tests/ladder $(number)
else
lesson:
	@tests/exercise/lesson
endif

SERVERS = $(filter-out build/06%,$(STAGES:%=build/%/server)) 'build/06-timeouts/server -t 0.5 -i 60' \
          build/01-blocking/threads build/05-epoll/edge \
          build/05-epoll/callbacks 'build/05-epoll/callbacks --slow 1 --worker' \
          'build/05-epoll/workers -j 2'
SERVERS += $(shell bash -c '. tests/lib/shared.bash && uring_runs build/05-epoll/uring && echo build/05-epoll/uring')
soak: all build/soak
	@build/soak $(MINUTES:%=-m %) $(SEED:%=-s %) $(SERVERS)

valgrind: all
	@tests/valgrind $(PROGRAM)

coverage:
	@tests/coverage/run

fuzz:
	@tests/fuzz/run $(or $(SECONDS),60) $(TARGET)

ladder:
	@tests/ladder

lint:
	@tests/lint

clean:
	rm -rf build

.PHONY: all help bench demo start check hint watch grade test mistakes break torture lesson ladder soak valgrind fuzz coverage lint clean $(SUITES:%=test-%)
