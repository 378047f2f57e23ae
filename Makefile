# `make help` lists the targets.

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
$(error there is no stage $(STAGE): choose one of $(NUMBERS))
endif
endif

ifneq ($(SERVER)$(CLIENT),)
ifeq ($(STAGE)$(filter-out test,$(MAKECMDGOALS)),)
$(error SERVER and CLIENT need a stage: make test STAGE=01 SERVER=./mine)
endif
endif

all: $(PROGRAMS) $(TOOLS)

help:
	@echo 'make demo              watch the course in half a minute; STAGE=03 shows one stage'
	@echo 'make                   build every program: build/03-select/server and so on'
	@echo 'make test              run all steps of all stages'
	@echo 'make test STAGE=03     run the steps of 03, then those of 01 and 02 that still hold'
	@echo 'make test STAGE=03 SERVER=./mine CLIENT=./other'
	@echo '                       run them on programs of your own, in any language'
	@echo 'make lesson STAGE=03   show what changes from the server of 02 to that of 03'
	@echo 'make ladder            count lines of code, and those that change, against their limits'
	@echo 'make mistakes          make every known mistake and check that its step fails; STAGE=03'
	@echo 'make bench             measure CPU time per message, relative to a minimal epoll loop'
	@echo 'make lint              check formatting, warnings and static analysis'
	@echo 'make clean             remove build/'
	@echo
	@echo 'A test that times out on a slow machine gets three times as long with SLOW=3.'
	@echo
	@echo 'Companion programs, built by make (in brackets the port, unless you give one):'
	@echo '  build/01-blocking/greeter          greets the client that is being served (8001)'
	@echo '  build/01-blocking/threads          a thread per client (10000)'
	@echo '  build/03-select/chat               a chat room for nc and telnet (8008)'
	@echo '  build/03-select/two-ports          several listeners in one select (8001 and 8002)'
	@echo '  build/04-poll/revents              what poll, select and epoll report here'
	@echo '  build/05-epoll/edge                the server of 05, edge-triggered (10000)'
	@echo '  build/05-epoll/callbacks           an event loop; --slow MS, --worker (10000)'
	@echo '  build/06-timeouts/select-timeout   the plain timeout of select (10000)'

# Each program is one file. The flags ask for every warning; cc server.c -o server builds it, too.
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
# The stages run side by side, the slowest first. Each prints its results when it is done.
test: all
	@tests/run --prepare
	@$(MAKE) --no-print-directory --keep-going --jobs=5 --output-sync=target $(SUITES:%=test-%); \
	status=$$?; tests/run --total; exit $$status
endif

$(SUITES:%=test-%): test-%:
	@tests/run --brief $*

# The script builds what the steps need.
mistakes:
	@STAGE=$(firstword $(subst -, ,$(stage))) tests/mistakes/run

lesson:
	@tests/ladder $(firstword $(subst -, ,$(stage)))

ladder:
	@tests/ladder

lint:
	@tests/lint

clean:
	rm -rf build

.PHONY: all help bench demo test mistakes lesson ladder lint clean $(SUITES:%=test-%)
