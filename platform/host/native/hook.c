/*
 * hostler-hook: CRIU's action script. It makes CRIU wait for the platform at the stages that the platform has asked for.
 *
 *   criu … --action-script hostler-hook      with HOSTLER_HOOKS=DIR, HOSTLER_STAGES=STAGE[,STAGE…], HOSTLER_PATIENCE=SECONDS
 *
 * CRIU tells the stage in CRTOOLS_SCRIPT_ACTION (criu(8), --action-script). At one that was asked for, DIR/STAGE appears, holding the
 * pid of the container's init where CRIU knows it, and the program waits for DIR/STAGE.go (CRIU goes on) or DIR/STAGE.no (CRIU
 * gives up and ends what it has restored). Files, and no socket, since whoever asked may be killed in between: the
 * one that comes after it finds the question and may still answer. When nobody does within the patience, the answer is no.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GRAIN = 200 * 1000 /* ns */ };

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "hostler-hook: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

static int asked_for(const char *stages, const char *stage)
{
	size_t length = strlen(stage);

	for (const char *at = stages; (at = strstr(at, stage)); at += length)
		if ((at == stages || at[-1] == ',') && (at[length] == '\0' || at[length] == ','))
			return 1;
	return 0;
}

/* The question appears whole: written under another name first. */
static void ask(int folder, const char *stage, const char *pid)
{
	char draft[80];
	int fd;

	snprintf(draft, sizeof(draft), ".%s", stage);
	fd = openat(folder, draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, pid, strlen(pid)) != (ssize_t)strlen(pid) || close(fd))
		fail("write the question");
	if (renameat(folder, draft, folder, stage))
		fail("put the question");
}

static int answered(int folder, const char *stage, const char *answer)
{
	char name[80];

	snprintf(name, sizeof(name), "%s.%s", stage, answer);
	return faccessat(folder, name, F_OK, 0) == 0;
}

int main(void)
{
	const char *stage = getenv("CRTOOLS_SCRIPT_ACTION"), *place = getenv("HOSTLER_HOOKS");
	const char *stages = getenv("HOSTLER_STAGES"), *patience = getenv("HOSTLER_PATIENCE");
	const char *pid = getenv("CRTOOLS_INIT_PID");
	struct timespec grain = { .tv_nsec = GRAIN }, now, end;
	int folder;

	if (!stage || !place || !stages || !asked_for(stages, stage))
		return 0;
	if (strlen(stage) > 60) {
		errno = ENAMETOOLONG;
		fail("take the stage");
	}
	folder = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		fail("open the folder of questions");
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += patience ? atoi(patience) : 60;
	ask(folder, stage, pid ? pid : "");
	for (;;) {
		if (answered(folder, stage, "no"))
			return 1;
		if (answered(folder, stage, "go"))
			return 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec >= end.tv_sec) {
			fprintf(stderr, "hostler-hook: nobody answered at %s\n", stage);
			return 1;
		}
		nanosleep(&grain, NULL);
	}
}
