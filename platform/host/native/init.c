/*
 * hostler-init: the first process of every container.
 *
 *   hostler-init [-k] [-u USER] [-w DIR] [-- COMMAND ARG...]     as PID 1
 *   hostler-init -x [-k] [-u USER] [-w DIR] -- COMMAND ARG...    become COMMAND in a running container
 *
 * As PID 1 it makes /.hostler/out and /.hostler/err (FIFOs) its standard output and error, forwards signals
 * to COMMAND, reaps whatever is orphaned, and when COMMAND ends tells how on /.hostler/status and exits with its status; the
 * kernel then kills all that is left. Without COMMAND it waits for SIGTERM, SIGINT or SIGQUIT.
 *
 * The FIFOs are opened for reading too, so that a collector that has gone never gives EPIPE: a writer then
 * waits as soon as the pipe is full. No other file of the host stays open, which keeps the container fit for a checkpoint.
 *
 * USER is uid, uid:gid, name or name:group, looked up in the container's own /etc/passwd and /etc/group: whatever a
 * hostile image says there, it names ids of its own user namespace. HOME is set to the user's, with -k it is kept.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GUEST "/.hostler/"
#define NOT_FOUND 127
#define NOT_RUN 126
#define MAX_GROUPS 1024

struct identity {
	uid_t uid;
	gid_t gid;
	gid_t groups[MAX_GROUPS];
	size_t ngroups;
	char name[256];
	char home[4096];
};

/* Ends with words that the platform recognises by "hostler-init: ". */
static _Noreturn void fail(int status, const char *what, const char *which, const char *why)
{
	dprintf(STDERR_FILENO, "hostler-init: %s %s: %s\n", what, which, why);
	_exit(status);
}

static int number(const char *text, unsigned long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return 0;
	errno = 0;
	*value = strtoul(text, &end, 10);
	return *end == '\0' && errno == 0 && *value < 0xffffffffUL;
}

/* Fill in what /etc/passwd knows of a name or a uid. */
static int find_user(const char *name, struct identity *who)
{
	struct passwd *entry;
	unsigned long uid = 0;
	int numeric = number(name, &uid), found = 0;
	FILE *file = fopen("/etc/passwd", "re");

	if (numeric)
		who->uid = (uid_t)uid;
	while (file && !found && (entry = fgetpwent(file))) {
		found = numeric ? entry->pw_uid == (uid_t)uid : strcmp(entry->pw_name, name) == 0;
		if (found) {
			who->uid = entry->pw_uid;
			who->gid = entry->pw_gid;
			snprintf(who->name, sizeof(who->name), "%s", entry->pw_name);
			snprintf(who->home, sizeof(who->home), "%s", entry->pw_dir);
		}
	}
	if (file)
		fclose(file);
	return found || numeric;
}

/* Take the gid of group NAME if one is named, else collect the groups that USER is a member of. */
static int find_groups(const char *name, struct identity *who)
{
	struct group *entry;
	unsigned long gid;
	int found = name == NULL;
	FILE *file;

	if (name && number(name, &gid)) {
		who->gid = (gid_t)gid;
		return 1;
	}
	file = fopen("/etc/group", "re");
	while (file && (entry = fgetgrent(file))) {
		if (name) {
			if (strcmp(entry->gr_name, name) == 0) {
				who->gid = entry->gr_gid;
				found = 1;
				break;
			}
			continue;
		}
		for (char **member = entry->gr_mem; *member && who->name[0]; member++)
			if (strcmp(*member, who->name) == 0 && who->ngroups < MAX_GROUPS)
				who->groups[who->ngroups++] = entry->gr_gid;
	}
	if (file)
		fclose(file);
	return found;
}

static void become(const char *user, int keep_home)
{
	static struct identity who;
	char *copy = strdup(*user ? user : "0"), *group;

	if (!copy)
		fail(NOT_RUN, "no memory to become", user, strerror(errno));
	if ((group = strchr(copy, ':')))
		*group++ = '\0';
	if (!find_user(copy, &who))
		fail(NOT_RUN, "cannot become user", copy, "not in /etc/passwd of the container");
	if (!find_groups(group, &who))
		fail(NOT_RUN, "cannot join group", group, "not in /etc/group of the container");
	free(copy);
	if (setgroups(who.ngroups, who.groups) || setgid(who.gid) || setuid(who.uid))
		fail(NOT_RUN, "cannot become user", user, strerror(errno));
	setenv("HOME", who.home[0] ? who.home : "/", !keep_home);
}

static _Noreturn void run(const char *user, int keep_home, const char *dir, char **command)
{
	become(user, keep_home);
	if (chdir(dir))
		fail(NOT_RUN, "cannot enter", dir, strerror(errno));
	execvp(command[0], command);
	fail(errno == ENOENT ? NOT_FOUND : NOT_RUN, "cannot run", command[0], strerror(errno));
}

static int open_as(const char *path, int flags, int want)
{
	int fd = open(path, flags);

	if (fd < 0)
		fail(NOT_RUN, "cannot open", path, strerror(errno));
	if (fd != want) {
		if (dup2(fd, want) < 0)
			fail(NOT_RUN, "cannot use", path, strerror(errno));
		close(fd);
	}
	return want;
}

/* Say on the status FIFO how the command ended; nobody listening is no reason to wait. */
static int report(int fd, int status)
{
	char line[32];
	int exited = WIFEXITED(status), code = exited ? WEXITSTATUS(status) : WTERMSIG(status);
	int length = snprintf(line, sizeof(line), "%s %d\n", exited ? "exit" : "signal", code);

	if (write(fd, line, (size_t)length) != length)
		dprintf(STDERR_FILENO, "hostler-init: nobody takes the status: %s", line);
	return exited ? code : 128 + code;
}

/* Reap all that ended. True when the command (or without one: nothing) is among them. */
static int reap(pid_t command, int *status)
{
	int ended = 0, one;
	pid_t pid;

	while ((pid = waitpid(-1, &one, WNOHANG)) > 0) {
		if (pid == command) {
			*status = one;
			ended = 1;
		}
	}
	return ended;
}

static int supervise(pid_t command, const sigset_t *all, int status_fd)
{
	siginfo_t info;
	int status, signal;

	for (;;) {
		signal = sigwaitinfo(all, &info);
		if (signal < 0)
			continue; /* EINTR: stopped and continued */
		if (signal == SIGCHLD) {
			if (reap(command, &status))
				return report(status_fd, status);
		} else if (command > 0) {
			kill(command, signal);
		} else if (signal == SIGTERM || signal == SIGINT || signal == SIGQUIT) {
			return report(status_fd, 0);
		}
	}
}

int main(int argc, char **argv)
{
	const char *user = "", *dir = "/";
	int option, become_it = 0, keep_home = 0, status_fd;
	pid_t command = 0;
	sigset_t all, none;

	while ((option = getopt(argc, argv, "+ku:w:x")) != -1) {
		if (option == 'u')
			user = optarg;
		else if (option == 'w')
			dir = optarg;
		else if (option == 'k')
			keep_home = 1;
		else if (option == 'x')
			become_it = 1;
		else
			return 2;
	}
	argv += optind;
	if (become_it) {
		if (!argv[0])
			fail(2, "nothing to", "run", "give a command");
		run(user, keep_home, dir, argv);
	}

	sigfillset(&all);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &all, NULL);
	open_as("/dev/null", O_RDWR, STDIN_FILENO);
	open_as(GUEST "err", O_RDWR, STDERR_FILENO);
	open_as(GUEST "out", O_RDWR, STDOUT_FILENO);
	status_fd = open(GUEST "status", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (status_fd < 0)
		fail(NOT_RUN, "cannot open", GUEST "status", strerror(errno));

	if (argv[0]) {
		command = fork();
		if (command < 0)
			fail(NOT_RUN, "cannot fork for", argv[0], strerror(errno));
		if (command == 0) {
			setsid();
			sigprocmask(SIG_SETMASK, &none, NULL);
			run(user, keep_home, dir, argv);
		}
	}
	return supervise(command, &all, status_fd);
}
