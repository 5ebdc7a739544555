/*
 * hostler-enter: run hostler-init -x in a container that runs, confined as the container's init is.
 *
 *   hostler-enter OPTION...
 *     --caller PID                who starts this; should it end, the command ends with it
 *     --init PID TICKS            the container's init: its pid and start time (field 22 of proc(5) stat)
 *     --group DIR                 the command's own cgroup, in which it is killed when the caller ends
 *     --join DIR                  a cgroup to join, as often as there are hierarchies; the freezer's last
 *     --caps MASK                 capabilities in the container's user namespace: bounding, permitted, effective (hexadecimal)
 *     --rlimit NUMBER SOFT HARD   as often as there are limits (numbers of setrlimit(2))
 *     --oom SCORE                 oom_score_adj
 *     --seccomp FILE              a filter in the kernel's form (struct sock_filter)
 *     --report FD                 where "ERRNO words" is written if the command cannot be begun
 *     --words FD COUNT            a file of NUL-terminated words: COUNT arguments, all others are the environment
 *
 * Standard input, output and error are the command's. Exit status: the command's, 128 and the signal's number if it was killed.
 *
 * Three processes. The first stays outside of the container and waits. The second, seen by nobody inside because it is in no pid
 * namespace of the container, joins cgroups and namespaces and gives up all that the command must not have, the seccomp filter
 * last. Only then it makes the third, in the container's pid namespace: what a process inside can see of us from its first
 * instant is fully confined, holds no file of the host but the command's pipes, and cannot be traced before it has become
 * hostler-init, as none of the three is dumpable.
 *
 * setns(2) takes a pidfd since Linux 5.8, which is older than what id-mapped roots need (5.12).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define NAMESPACES (CLONE_NEWUSER | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_NEWNS)
#define SYS_pidfd_open_ 434
#define SYS_clone3_ 435
#define SYS_close_range_ 436
#define NEW_SESSION_KEYRING 1 /* KEYCTL_JOIN_SESSION_KEYRING */
#define MOST 32

enum { USAGE = 2, NOT_BEGUN = 125 };

struct limit { int what; struct rlimit value; };

static struct {
	pid_t caller, init;
	unsigned long long started, caps;
	const char *group, *oom;
	const char *join[MOST];
	int joins, limits;
	struct limit limit[MOST];
	struct sock_fprog filter;
	char **argv, **envp;
} plan;

/* Files that execve closes: where to report, the container's init, and the first of the three processes. */
static int report = STDERR_FILENO, pidfd = -1, first = -1;

static int has_ended(int process)
{
	struct pollfd one = {.fd = process, .events = POLLIN};

	return process >= 0 && poll(&one, 1, 0) == 1;
}

/* To die with the first process. A change of ids makes the kernel forget this wish. */
static void die_with_first(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || has_ended(first))
		_exit(NOT_BEGUN);
}

static _Noreturn void fail(const char *what, const char *which)
{
	int seen = errno;
	int why = has_ended(pidfd) ? ESRCH : seen; /* whatever it looks like, that is the reason */

	dprintf(report, "%d cannot %s %s: %s\n", why, what, which, strerror(why));
	_exit(NOT_BEGUN);
}

static _Noreturn void refuse(int why, const char *what, const char *which)
{
	errno = why;
	fail(what, which);
}

/* --- what the command line and the files say --- */

static unsigned long long number(const char *text, int base)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, base);
	if (errno || end == text || *end)
		refuse(EINVAL, "read the number", text);
	return value;
}

/* All of a file; its length without the NUL that is added. */
static char *content(int fd, const char *name, size_t *length)
{
	struct stat is;
	size_t got = 0;
	ssize_t more;
	char *text;

	if (fd < 0 || fstat(fd, &is))
		fail("open", name);
	text = malloc((size_t)is.st_size + 1);
	if (!text)
		fail("find memory for", name);
	while (got < (size_t)is.st_size && (more = pread(fd, text + got, (size_t)is.st_size - got, (off_t)got)) > 0)
		got += (size_t)more;
	if (got != (size_t)is.st_size)
		fail("read", name);
	text[got] = '\0';
	*length = got;
	return text;
}

static void take_words(int fd, size_t arguments)
{
	size_t length, words = 0, at = 0, i;
	char *text = content(fd, "the command", &length);
	char **list;

	for (i = 0; i < length; i++)
		words += text[i] == '\0';
	if (words < arguments || !arguments || text[length - 1] != '\0')
		refuse(EINVAL, "read", "the command");
	list = calloc(words + 2, sizeof(*list));
	if (!list)
		fail("find memory for", "the command");
	plan.argv = list;
	plan.envp = list + arguments + 1;
	for (i = 0; i < words; i++) {
		list[i < arguments ? i : i + 1] = text + at;
		at += strlen(text + at) + 1;
	}
	close(fd);
}

static void take_filter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length;

	plan.filter.filter = (struct sock_filter *)content(fd, path, &length);
	if (!length || length % sizeof(struct sock_filter) || length / sizeof(struct sock_filter) > BPF_MAXINSNS)
		refuse(EINVAL, "use the filter", path);
	plan.filter.len = (unsigned short)(length / sizeof(struct sock_filter));
	close(fd);
}

static void option(char **words)
{
	const char *name = words[0];

	if (!strcmp(name, "--caller")) {
		plan.caller = (pid_t)number(words[1], 10);
	} else if (!strcmp(name, "--init")) {
		plan.init = (pid_t)number(words[1], 10);
		plan.started = number(words[2], 10);
	} else if (!strcmp(name, "--group")) {
		plan.group = words[1];
	} else if (!strcmp(name, "--join") && plan.joins < MOST) {
		plan.join[plan.joins++] = words[1];
	} else if (!strcmp(name, "--caps")) {
		plan.caps = number(words[1], 16);
	} else if (!strcmp(name, "--rlimit") && plan.limits < MOST) {
		struct limit *one = &plan.limit[plan.limits++];

		one->what = (int)number(words[1], 10);
		one->value.rlim_cur = number(words[2], 10);
		one->value.rlim_max = number(words[3], 10);
	} else if (!strcmp(name, "--oom")) {
		plan.oom = words[1];
	} else if (!strcmp(name, "--seccomp")) {
		take_filter(words[1]);
	} else if (!strcmp(name, "--words")) {
		take_words((int)number(words[1], 10), number(words[2], 10));
	} else if (strcmp(name, "--report")) {
		refuse(EINVAL, "understand the option", name);
	}
}

static const struct { const char *name; int words; } OPTIONS[] = {
	{"--caller", 1}, {"--init", 2}, {"--group", 1}, {"--join", 1}, {"--caps", 1}, {"--rlimit", 3},
	{"--oom", 1}, {"--seccomp", 1}, {"--report", 1}, {"--words", 2},
};

static int words_after(const char *name)
{
	for (size_t i = 0; i < sizeof(OPTIONS) / sizeof(OPTIONS[0]); i++)
		if (!strcmp(name, OPTIONS[i].name))
			return OPTIONS[i].words;
	return -1;
}

static void read_plan(int argc, char **argv)
{
	int at, words;

	for (int pass = 0; pass < 2; pass++) { /* where to report first: all else may fail */
		for (at = 1; at < argc; at += words + 1) {
			words = words_after(argv[at]);
			if (words < 0 || at + words >= argc)
				refuse(EINVAL, "understand the option", argv[at]);
			if (pass == 0 && !strcmp(argv[at], "--report"))
				report = (int)number(argv[at + 1], 10);
			else if (pass == 1)
				option(argv + at);
		}
	}
	if (!plan.caller || !plan.init || !plan.group || !plan.joins || !plan.filter.len || !plan.argv || !plan.oom)
		refuse(EINVAL, "go on without", "all options");
}

/* --- the first process: outside --- */

/* Of the command's streams only the report and the pidfd stay open besides, both closed by execve. */
static void close_others(void)
{
	int moved = fcntl(report, F_DUPFD_CLOEXEC, 10);

	if (moved < 0)
		fail("keep", "the report");
	if (syscall(SYS_close_range_, 3, (unsigned)moved - 1, 0) || syscall(SYS_close_range_, (unsigned)moved + 1, ~0U, 0))
		fail("close", "what the caller had open");
	report = moved;
}

/* The pidfd of that very process: whoever has its number after its end started later. */
static void find_init(void)
{
	char path[64], text[4096], *field;
	unsigned long long started = 0;
	char state = 'X';
	ssize_t length;
	int fd;

	pidfd = (int)syscall(SYS_pidfd_open_, plan.init, 0);
	if (pidfd < 0)
		fail("find", "the container's init");
	snprintf(path, sizeof(path), "/proc/%d/stat", plan.init);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (length <= 0)
		refuse(ESRCH, "find", "the container's init");
	close(fd);
	text[length] = '\0';
	field = strrchr(text, ')'); /* the name before may hold anything */
	if (!field || sscanf(field, ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state, &started) != 2 ||
	    started != plan.started || state == 'Z' || state == 'X')
		refuse(ESRCH, "find", "the container's init");
}

/* The pipes become the container's root's, so that /dev/stdout can be opened by its name. Nothing but pipes is touched. */
static void hand_over_pipes(void)
{
	char path[64], text[128];
	unsigned int inside, outside;
	struct stat is;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/uid_map", plan.init);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (length <= 0)
		fail("read", path);
	close(fd);
	text[length] = '\0';
	if (sscanf(text, "%u %u", &inside, &outside) != 2 || inside != 0 || outside == 0)
		refuse(EPERM, "trust the user namespace of", "the container's init");
	for (fd = 0; fd < 3; fd++)
		if (!fstat(fd, &is) && S_ISFIFO(is.st_mode) && fchown(fd, outside, outside))
			fail("give away", "a pipe");
}

static void put(const char *folder, const char *file, const char *text)
{
	char path[4096];
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path))
		refuse(ENAMETOOLONG, "write", file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0 && errno != ENODEV)
		dprintf(report, "%d cannot write %s: %s\n", errno, path, strerror(errno));
	close(fd);
}

/* The caller has ended, and with it whoever would have killed the command at its time limit. */
static _Noreturn void end_all(void)
{
	char path[4096], line[32];
	struct timespec pause = {.tv_nsec = 1000000};

	put(plan.group, "pids.max", "0"); /* version 1: a fork bomb cannot win */
	put(plan.group, "cgroup.kill", "1"); /* version 2 */
	snprintf(path, sizeof(path), "%s/cgroup.procs", plan.group);
	for (int round = 0; round < 2000; round++) {
		FILE *list = fopen(path, "re");
		int some = 0;

		while (list && fgets(line, sizeof(line), list)) {
			pid_t pid = (pid_t)strtol(line, NULL, 10);

			some = 1;
			if (pid > 0)
				kill(pid, SIGKILL);
		}
		if (list)
			fclose(list);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (!some && (!rmdir(plan.group) || errno == ENOENT))
			break;
		nanosleep(&pause, NULL);
	}
	_exit(NOT_BEGUN);
}

static int wait_for_command(pid_t middle, const sigset_t *awaited)
{
	pid_t pid;
	int status, signal;

	for (;;) {
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid != middle)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			if (WIFSIGNALED(status)) {
				dprintf(report, "%d what enters the container was killed by signal %d\n", has_ended(pidfd) ? ESRCH : EINTR, WTERMSIG(status));
				end_all();
			}
			if (WEXITSTATUS(status))
				return WEXITSTATUS(status);
		}
		signal = sigwaitinfo(awaited, NULL);
		if (signal == SIGTERM)
			end_all();
	}
}

/* --- the second process: goes in --- */

static int is_unified(const char *folder)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/tasks", folder);
	return access(path, F_OK) != 0;
}

/*
 * Version 1: a thread that moves itself by "tasks" does not wait for cgroup_threadgroup_rwsem, which costs 8 to 14 ms after 40 ms
 * of rest. Version 2 is joined by being born there (CLONE_INTO_CGROUP), which does not wait either.
 */
static void join(const char *folder)
{
	char path[4096];
	int fd;

	if (snprintf(path, sizeof(path), "%s/tasks", folder) >= (int)sizeof(path))
		refuse(ENAMETOOLONG, "join", folder);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail("join", folder);
	close(fd);
}

static pid_t fork_into(const char *folder)
{
	/* struct clone_args of <linux/sched.h>, 88 bytes */
	struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; } how = {
		.exit_signal = SIGCHLD,
	};
	pid_t pid;
	int fd;

	if (!folder)
		return fork();
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fail("join", folder);
	how.flags = CLONE_INTO_CGROUP;
	how.cgroup = (uint64_t)fd;
	pid = (pid_t)syscall(SYS_clone3_, &how, sizeof(how));
	close(fd);
	return pid;
}

/* While this is still a process of the server's root: its keys stay behind, its limits may still be raised. */
static void leave_the_server(const char *born_in)
{
	int fd;

	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, plan.oom, strlen(plan.oom)) < 0)
		fail("set", "oom_score_adj");
	close(fd);
	for (int i = 0; i < plan.limits; i++)
		if (setrlimit(plan.limit[i].what, &plan.limit[i].value))
			fail("set", "a resource limit");
	if (syscall(SYS_keyctl, NEW_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		fail("leave", "the session keyring");
	for (int i = 0; i < plan.joins; i++)
		if (plan.join[i] != born_in)
			join(plan.join[i]);
}

static void join_namespaces(void)
{
	char cwd[16];
	int time = access("/proc/self/ns/time", F_OK) ? 0 : CLONE_NEWTIME;

	if (setns(pidfd, NAMESPACES | time))
		fail("join", "the container's namespaces");
	if (chdir("/") || !getcwd(cwd, sizeof(cwd)) || strcmp(cwd, "/")) /* "(unreachable)" would be a folder of the server */
		fail("enter", "the container's root folder");
}

static void become_its_root(void)
{
	if (setgroups(0, NULL) || setresgid(0, 0, 0) || setresuid(0, 0, 0))
		fail("become", "the container's root");
	/* the change of ids may have made us dumpable (fs.suid_dumpable) */
	if (prctl(PR_SET_DUMPABLE, 0))
		fail("stay closed to", "tracing");
	umask(022);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct set[2] = {{0}};

	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if ((cap >= 64 || !(plan.caps >> cap & 1)) && prctl(PR_CAPBSET_DROP, cap))
			fail("drop", "a capability");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		fail("drop", "ambient capabilities");
	for (int half = 0; half < 2; half++)
		set[half].effective = set[half].permitted = (uint32_t)(plan.caps >> (32 * half));
	if (syscall(SYS_capset, &header, set))
		fail("set", "capabilities");
}

static void filter_calls(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fail("give up", "new privileges");
	if (prctl(PR_SET_DUMPABLE, 0))
		fail("stay closed to", "tracing");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &plan.filter))
		fail("load", "the seccomp filter");
}

/* The third process: inside. Its parent is the first, whose end it does not outlive. */
static _Noreturn void run(void)
{
	sigset_t none;

	sigemptyset(&none);
	die_with_first();
	if (setsid() < 0)
		fail("begin", "a session");
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(plan.argv[0], plan.argv, plan.envp);
	fail("run", plan.argv[0]);
}

static _Noreturn void enter(const char *born_in, int argc, char **argv)
{
	long pid;

	die_with_first();
	leave_the_server(born_in);
	join_namespaces();
	become_its_root();
	die_with_first();
	drop_capabilities();
	for (int i = 1; i < argc; i++)
		memset(argv[i], 0, strlen(argv[i])); /* /proc/<pid>/cmdline is everybody's to read, and names paths of the server */
	filter_calls();
	pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		fail("fork in", "the container");
	if (pid == 0)
		run();
	_exit(0);
}

int main(int argc, char **argv)
{
	const char *born_in = NULL;
	struct sigaction usual = {.sa_handler = SIG_DFL};
	sigset_t all, awaited;
	pid_t middle;

	if (prctl(PR_SET_DUMPABLE, 0))
		fail("stay closed to", "tracing");
	read_plan(argc, argv);
	close_others();
	for (int one = 1; one < NSIG; one++)
		sigaction(one, &usual, NULL); /* EINVAL for those that cannot be changed */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGCHLD);
	sigaddset(&awaited, SIGTERM);
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != plan.caller)
		_exit(NOT_BEGUN);
	first = (int)syscall(SYS_pidfd_open_, getpid(), 0);
	if (first < 0)
		fail("find", "itself");
	find_init();
	hand_over_pipes();
	for (int i = 0; i < plan.joins; i++)
		if (is_unified(plan.join[i]))
			born_in = plan.join[i];
	middle = fork_into(born_in);
	if (middle < 0)
		fail("fork for", "the container");
	if (middle == 0)
		enter(born_in, argc, argv);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	return wait_for_command(middle, &awaited);
}
