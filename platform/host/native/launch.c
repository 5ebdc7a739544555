/*
 * hostler-launch: make a container's root file system in a private mount namespace, then become the OCI runtime.
 * Without a root to make it only puts the runtime into cgroups and hides mounts from it.
 *
 *   hostler-launch OPTION... -- RUNTIME ARG...
 *     --scratch DIR               an existing folder; a tmpfs is mounted there, and every root below it
 *     --ids BASE COUNT            host ids BASE.. are 0.. on the volumes
 *     --join DIR                  put this process into the cgroup DIR first
 *     --hide DIR                  unmount DIR; one that is no mount is hidden already
 *     --cover SOURCE DIR          bind SOURCE over DIR, for the runtime's eyes only
 *     --own-cgroups               a cgroup namespace of its own, whose top is what was joined
 *     --outlive FILE              do not die with the caller; write the runtime's pid to FILE
 *     --idmap SOURCE TARGET       bind SOURCE to TARGET with the ids shifted
 *     --overlay LOWER UPPER WORK TARGET    LOWER may be several, separated by colons
 *     --dev TARGET NAME*6         a tmpfs with all that /dev of a container has; the NAMEs are files to bind devices on
 *     --shm TARGET BYTES          a tmpfs for everybody in the container
 *     --bind SOURCE TARGET        bind SOURCE, a folder or a file, to TARGET as it is
 * TARGET, LOWER, UPPER and WORK are relative to the scratch folder. Mounts are made in the order given.
 *
 * No mount ever exists in the namespace of the caller, so none can be left behind there: when the runtime ends, only
 * the container's own namespace still holds them. The scratch tmpfs makes the root reachable for the container's
 * unprivileged ids whatever the modes of the folders above the volume are. Should the caller die, the runtime dies with it unless it
 * is told to outlive it.
 *
 * mount_setattr(2) since Linux 5.12, overlay on id-mapped layers since 5.19. glibc before 2.36 wraps none of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* <sys/mount.h> clashes with <linux/mount.h> in older C libraries. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);

enum { OLD_NOSUID = 2, OLD_NODEV = 4, OLD_BIND = 4096, OLD_REC = 16384, OLD_SLAVE = 1 << 19, OLD_STRICTATIME = 1 << 24, LAZY = 2 };

static const char *scratch;
static int user_namespace = -1;
static uid_t root_id;
static int own_mounts, needs_scratch, own_cgroups;

static _Noreturn void fail(const char *what, const char *which)
{
	fprintf(stderr, "hostler-launch: cannot %s %s: %s\n", what, which, strerror(errno));
	exit(1);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("write", path);
	close(fd);
}

/* A user namespace that lives as long as our file descriptor, to tell mount_setattr how ids shift. */
static void make_user_namespace(const char *base, const char *count)
{
	char path[64], map[64];
	int ready[2], hold[2];
	char byte;
	pid_t child;

	root_id = (uid_t)strtoul(base, NULL, 10);
	if (pipe2(ready, O_CLOEXEC) || pipe2(hold, O_CLOEXEC))
		fail("make", "a pipe");
	child = fork();
	if (child < 0)
		fail("fork", "for the user namespace");
	if (child == 0) {
		close(ready[0]);
		close(hold[1]);
		if (unshare(CLONE_NEWUSER))
			fail("make", "a user namespace");
		if (write(ready[1], "x", 1) != 1)
			fail("tell", "the parent");
		_exit(read(hold[0], &byte, 1) != 0);
	}
	close(ready[1]);
	close(hold[0]);
	if (read(ready[0], &byte, 1) != 1)
		fail("make", "a user namespace");
	snprintf(map, sizeof(map), "0 %s %s\n", base, count);
	snprintf(path, sizeof(path), "/proc/%d/uid_map", child);
	write_file(path, map);
	snprintf(path, sizeof(path), "/proc/%d/gid_map", child);
	write_file(path, map);
	snprintf(path, sizeof(path), "/proc/%d/ns/user", child);
	user_namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (user_namespace < 0)
		fail("open", path);
	close(ready[0]);
	close(hold[1]);
	waitpid(child, NULL, 0);
}

static void join(const char *folder)
{
	char path[4096];

	if (snprintf(path, sizeof(path), "%s/cgroup.procs", folder) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		fail("join", folder);
	}
	write_file(path, "0");
}

/* The runtime has this pid: exec does not change it. */
static void outlive(const char *file)
{
	char pid[16];
	int fd;

	if (prctl(PR_SET_PDEATHSIG, 0))
		fail("outlive", "the caller");
	fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		fail("make", file);
	close(fd);
	snprintf(pid, sizeof(pid), "%d", getpid());
	write_file(file, pid);
}

/* The current folder is the scratch tmpfs; targets are plain names below it. */
static void make_target(const char *target)
{
	if (target[0] == '/' || strstr(target, "..")) {
		errno = EINVAL;
		fail("mount outside of the scratch folder:", target);
	}
	if (mkdir(target, 0755) && errno != EEXIST)
		fail("make the folder", target);
}

static void leave_mounts(void)
{
	if (unshare(CLONE_NEWNS))
		fail("make", "a mount namespace");
	if (mount(NULL, "/", NULL, OLD_REC | OLD_SLAVE, NULL))
		fail("make private", "/");
}

static void enter_scratch(void)
{
	if (mount("hostler", scratch, "tmpfs", OLD_NOSUID | OLD_NODEV, "mode=0755,size=64k"))
		fail("mount a tmpfs on", scratch);
	if (chdir(scratch))
		fail("enter", scratch);
}

static void bind_idmapped(const char *source, const char *target)
{
	struct mount_attr attributes = {
		.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NODEV,
		.userns_fd = (uint64_t)user_namespace,
	};
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (user_namespace < 0) {
		errno = EINVAL;
		fail("shift ids without --ids of", source);
	}
	if (tree < 0)
		fail("open", source);
	if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)))
		fail("shift the ids (the file system must support id-mapped mounts) of", source);
	make_target(target);
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH))
		fail("mount on", target);
	close(tree);
}

/* What lies below folders that only root may enter is reachable from within the scratch folder, for the container's root too. */
static void bind_plain(const char *source, const char *target)
{
	struct stat found;
	int fd;

	if (stat(source, &found))
		fail("find", source);
	if (S_ISDIR(found.st_mode)) {
		make_target(target);
	} else {
		fd = target[0] == '/' || strstr(target, "..") ? -1 : open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			fail("make", target);
		close(fd);
	}
	if (mount(source, target, NULL, OLD_BIND, NULL))
		fail("bind", source);
}

/* What else a mount is told of access times cannot be changed from within the container: they are what the runtime's mount has. */
static void mount_tmpfs(const char *target, const char *mode, const char *size, unsigned long times)
{
	char options[128];

	snprintf(options, sizeof(options), "mode=%s,size=%s,uid=%u,gid=%u", mode, size, root_id, root_id);
	make_target(target);
	if (mount("tmpfs", target, "tmpfs", OLD_NOSUID | times, options))
		fail("mount a tmpfs on", target);
}

/* What a runtime makes in /dev, but for the mounts in it. */
static void make_dev(const char *target, char **devices, int count)
{
	static const char *const folders[] = {"pts", "shm", "mqueue"};
	static const char *const links[][2] = {
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
	};
	int dev, fd;

	mount_tmpfs(target, "755", "64k", OLD_STRICTATIME);
	dev = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dev < 0)
		fail("open", target);
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (mkdirat(dev, folders[i], 0755) || fchownat(dev, folders[i], root_id, root_id, 0))
			fail("make the folder", folders[i]);
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlinkat(links[i][0], dev, links[i][1]) || fchownat(dev, links[i][1], root_id, root_id, AT_SYMLINK_NOFOLLOW))
			fail("make the link", links[i][1]);
	for (int i = 0; i < count; i++) {
		fd = openat(dev, devices[i], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
		if (fd < 0 || fchown(fd, root_id, root_id) || close(fd))
			fail("make", devices[i]);
	}
	close(dev);
}

/* Take back the capabilities that leaving fsuid 0 has cost. */
static void all_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		fail("read", "capabilities");
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted;
	if (syscall(SYS_capset, &header, data))
		fail("keep", "capabilities");
}

/*
 * Overlay makes files of its own (work/work) as whoever mounts it. Our id 0 has no place on the shifted layers, and overlay
 * would silently become read-only: so the mounter is the container's root, with our capabilities.
 */
static void mount_overlay(const char *lower, const char *upper, const char *work, const char *target)
{
	char options[4096];

	if (snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work) >=
	    (int)sizeof(options)) {
		errno = E2BIG;
		fail("mount an overlay on", target);
	}
	make_target(target);
	setfsgid(root_id);
	setfsuid(root_id);
	all_capabilities();
	if (mount("overlay", target, "overlay", OLD_NODEV, options))
		fail("mount an overlay on", target);
	setfsuid(0);
	setfsgid(0);
}

enum { DEVICES = 6 };

static const struct { const char *name; int words; } OPTIONS[] = {
	{"--scratch", 1}, {"--ids", 2}, {"--join", 1}, {"--hide", 1}, {"--idmap", 2}, {"--overlay", 4},
	{"--dev", 1 + DEVICES}, {"--shm", 2}, {"--bind", 2}, {"--cover", 2}, {"--own-cgroups", 0}, {"--outlive", 1},
};

static int words_after(const char *option)
{
	for (size_t i = 0; i < sizeof(OPTIONS) / sizeof(OPTIONS[0]); i++)
		if (strcmp(option, OPTIONS[i].name) == 0)
			return OPTIONS[i].words;
	return -1;
}

/* The order of the steps is not that of the options: what must come first comes first. */
static void step(int pass, char **option)
{
	if (pass == 0 && strcmp(*option, "--scratch") == 0)
		scratch = option[1];
	else if (pass == 0 && strcmp(*option, "--join") == 0)
		join(option[1]);
	else if (pass == 0 && strcmp(*option, "--outlive") == 0)
		outlive(option[1]);
	else if (pass == 0 && strcmp(*option, "--own-cgroups") == 0)
		own_cgroups = 1;
	else if (pass == 0 && (strcmp(*option, "--hide") == 0 || strcmp(*option, "--cover") == 0))
		own_mounts = 1;
	else if (pass == 0 && (strcmp(*option, "--idmap") == 0 || strcmp(*option, "--overlay") == 0 || strcmp(*option, "--bind") == 0))
		needs_scratch = 1;
	else if (pass == 0 && strcmp(*option, "--ids") == 0)
		make_user_namespace(option[1], option[2]);
	else if (pass == 1 && strcmp(*option, "--cover") == 0 && mount(option[1], option[2], NULL, OLD_BIND, NULL))
		fail("cover", option[2]);
	else if (pass == 1 && strcmp(*option, "--hide") == 0 && umount2(option[1], LAZY) && errno != EINVAL && errno != ENOENT)
		fail("unmount", option[1]);
	else if (pass == 2 && strcmp(*option, "--idmap") == 0)
		bind_idmapped(option[1], option[2]);
	else if (pass == 2 && strcmp(*option, "--dev") == 0)
		make_dev(option[1], option + 2, DEVICES);
	else if (pass == 2 && strcmp(*option, "--shm") == 0)
		mount_tmpfs(option[1], "1777", option[2], 0);
	else if (pass == 2 && strcmp(*option, "--bind") == 0)
		bind_plain(option[1], option[2]);
	else if (pass == 2 && strcmp(*option, "--overlay") == 0)
		mount_overlay(option[1], option[2], option[3], option[4]);
}

int main(int argc, char **argv)
{
	int end = 1;

	(void)argc;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		fail("bind to the life of", "the caller");
	while (argv[end] && strcmp(argv[end], "--")) {
		int words = words_after(argv[end]);

		for (int i = 0; i <= words && words > 0; i++)
			if (!argv[end + i])
				words = -1;
		if (words < 0) {
			fprintf(stderr, "hostler-launch: wrong or incomplete option %s\n", argv[end]);
			return 2;
		}
		end += words + 1;
	}
	if (!argv[end] || !argv[end + 1]) {
		fprintf(stderr, "hostler-launch: no runtime is named after --\n");
		return 2;
	}
	for (int pass = 0; pass < 3; pass++) {
		for (int at = 1; at < end; at += words_after(argv[at]) + 1)
			step(pass, argv + at);
		if (pass == 0 && needs_scratch && !scratch) {
			fprintf(stderr, "hostler-launch: --scratch is missing\n");
			return 2;
		}
		if (pass == 0 && (scratch || own_mounts))
			leave_mounts();
		if (pass == 0 && own_cgroups && unshare(CLONE_NEWCGROUP))
			fail("make", "a cgroup namespace");
		if (pass == 1 && scratch) /* which may lie in what was covered */
			enter_scratch();
	}
	if (user_namespace >= 0)
		close(user_namespace);
	if (chdir("/"))
		fail("enter", "/");
	execvp(argv[end + 1], argv + end + 1);
	fail("run", argv[end + 1]);
}
