/* Does one thing that a checkpoint may find awkward, says so in /tmp/ready-<what>, and goes on doing it; on SIGUSR1 it says in /tmp/again-<what>
 * whether it still has what it had. Usage: awkward <what>. Exit status 77: this kernel or its confinement does not let it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int held = -1;
static char *memory;
static const char *doing = "nothing";

static int need(long result)
{
    if (result < 0) {
        exit(77);
    }
    return (int)result;
}

static void say(const char *what, const char *word)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/%s-%s", what, doing);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, word, strlen(word)) < 0)
        exit(1);
    close(file);
}

/* Whether a watch of /tmp still tells of what is made there. */
static int watches(void)
{
    char events[4096];
    fcntl(held, F_SETFL, O_NONBLOCK);
    while (read(held, events, sizeof events) > 0)
        ;
    mkdir("/tmp/watched", 0755);
    rmdir("/tmp/watched");
    return read(held, events, sizeof events) > 0;
}

static void again(int number)
{
    (void)number;
    if (!strcmp(doing, "inotify") && !watches()) {
        say("again", "no");
        return;
    }
    say("again", (held < 0 || fcntl(held, F_GETFD) >= 0) && (memory == NULL || strcmp(memory, "kept") == 0) ? "yes" : "no");
}

static void map(int file, int flags)
{
    memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, flags, file, 0);
    if (memory == MAP_FAILED)
        exit(77);
    strcpy(memory, "kept");
}

static void wait_for_death(void)
{
    for (;;)
        pause();
}

static void deleted(const char *path, off_t size, int link_too)
{
    held = need(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));
    char block[65536];
    memset(block, 'x', sizeof block);
    for (off_t at = 0; at < size; at += sizeof block)
        need(write(held, block, sizeof block));
    if (link_too)
        need(link(path, "/tmp/other-name"));
    need(unlink(path));
}

static void start(const char *what)
{
    if (!strcmp(what, "nothing"))
        return;
    if (!strcmp(what, "io_uring")) {
        struct io_uring_params parameters = {0};
        held = need(syscall(SYS_io_uring_setup, 4, &parameters));
    } else if (!strcmp(what, "userfaultfd"))
        held = need(syscall(SYS_userfaultfd, 1));
    else if (!strcmp(what, "perf")) {
        struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1, .exclude_hv = 1};
        held = need(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
    } else if (!strcmp(what, "fanotify"))
        held = need(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY)), need(fanotify_mark(held, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, "/tmp"));
    else if (!strcmp(what, "secretmem")) {
        held = need(syscall(447, 0));
        need(ftruncate(held, 65536));
        map(held, MAP_SHARED);
    } else if (!strcmp(what, "memfd")) {
        held = need(memfd_create("own", 0));
        need(ftruncate(held, 65536));
        map(held, MAP_SHARED);
    } else if (!strcmp(what, "shared"))
        map(-1, MAP_SHARED | MAP_ANONYMOUS);
    else if (!strcmp(what, "sysv")) {
        int id = need(shmget(IPC_PRIVATE, 65536, IPC_CREAT | 0600));
        memory = shmat(id, NULL, 0);
        strcpy(memory, "kept");
        need(semget(IPC_PRIVATE, 2, IPC_CREAT | 0600));
    } else if (!strcmp(what, "pidfd"))
        held = need(syscall(SYS_pidfd_open, getpid(), 0));
    else if (!strcmp(what, "inotify"))
        held = need(inotify_init()), need(inotify_add_watch(held, "/tmp", IN_CREATE));
    else if (!strcmp(what, "mqueue"))
        held = need(mq_open("/queue", O_RDWR | O_CREAT, 0600, NULL));
    else if (!strcmp(what, "mptcp")) {
        held = need(socket(AF_INET, SOCK_STREAM, 262));
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(8000)};
        need(bind(held, (struct sockaddr *)&at, sizeof at));
        need(listen(held, 5));
    } else if (!strcmp(what, "ping"))
        held = need(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    else if (!strcmp(what, "raw"))
        held = need(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    else if (!strcmp(what, "udplite"))
        held = need(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
    else if (!strcmp(what, "sctp"))
        held = need(socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP));
    else if (!strcmp(what, "alg"))
        held = need(socket(AF_ALG, SOCK_SEQPACKET, 0));
    else if (!strcmp(what, "vsock"))
        held = need(socket(AF_VSOCK, SOCK_STREAM, 0));
    else if (!strcmp(what, "xdp"))
        held = need(socket(AF_XDP, SOCK_RAW, 0));
    else if (!strcmp(what, "packet"))
        held = need(socket(AF_PACKET, SOCK_RAW, htons(3)));
    else if (!strcmp(what, "netlink"))
        held = need(socket(AF_NETLINK, SOCK_RAW, 0));
    else if (!strcmp(what, "udp"))
        held = need(socket(AF_INET6, SOCK_DGRAM, 0));
    else if (!strcmp(what, "tcp"))
        held = need(socket(AF_INET, SOCK_STREAM, 0));
    else if (!strcmp(what, "seqpacket")) {
        int both[2];
        need(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, both));
        held = both[0];
        need(write(both[1], "x", 1));
    } else if (!strcmp(what, "unaccepted")) {
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/tmp/socket"};
        int door = need(socket(AF_UNIX, SOCK_STREAM, 0));
        need(bind(door, (struct sockaddr *)&at, sizeof at));
        need(listen(door, 5));
        held = need(socket(AF_UNIX, SOCK_STREAM, 0));
        need(connect(held, (struct sockaddr *)&at, sizeof at));
    } else if (!strcmp(what, "traced")) {
        pid_t child = fork();
        if (child == 0)
            wait_for_death();
        need(ptrace(PTRACE_SEIZE, child, 0, 0));
    } else if (!strcmp(what, "zombie")) {
        if (fork() == 0)
            _exit(0);
        usleep(100000);
    } else if (!strcmp(what, "stopped")) {
        pid_t child = fork();
        if (child == 0)
            wait_for_death();
        kill(child, SIGSTOP);
    } else if (!strncmp(what, "ns-", 3)) {
        int kind = !strcmp(what, "ns-user") ? CLONE_NEWUSER : !strcmp(what, "ns-net") ? CLONE_NEWNET : !strcmp(what, "ns-mnt") ? CLONE_NEWNS
                 : !strcmp(what, "ns-uts") ? CLONE_NEWUTS : !strcmp(what, "ns-ipc") ? CLONE_NEWIPC : !strcmp(what, "ns-pid") ? CLONE_NEWPID
                 : !strcmp(what, "ns-cgroup") ? CLONE_NEWCGROUP : CLONE_NEWTIME;
        pid_t child = fork();
        if (child == 0) {
            if (unshare(kind) < 0)
                _exit(77);
            if (kind == CLONE_NEWPID || kind == CLONE_NEWTIME) {
                if (fork() == 0)
                    wait_for_death();
            }
            wait_for_death();
        }
        usleep(100000);
        int status;
        if (waitpid(child, &status, WNOHANG) == child)
            exit(77);
    } else if (!strcmp(what, "mount")) {
        mkdir("/tmp/mounted", 0755);
        need(mount("x", "/tmp/mounted", "tmpfs", 0, NULL));
    } else if (!strcmp(what, "device"))
        held = need(open("/dev/fuse", O_RDWR));
    else if (!strcmp(what, "ghost"))
        deleted("/tmp/ghost", 65536, 0);
    else if (!strcmp(what, "huge-ghost"))
        deleted("/tmp/ghost", 65 << 20, 0);
    else if (!strcmp(what, "half-deleted"))
        deleted("/tmp/ghost", 65536, 1);
    else if (!strcmp(what, "mapped-ghost")) {
        deleted("/tmp/ghost", 65 << 20, 0);
        if (mmap(NULL, 65536, PROT_READ, MAP_SHARED, held, 0) == MAP_FAILED)
            exit(77);
        close(held);
        held = -1;
    } else if (!strcmp(what, "lock")) {
        held = need(open("/tmp/lock", O_RDWR | O_CREAT, 0644));
        need(flock(held, LOCK_EX));
    } else if (!strcmp(what, "aio")) {
        unsigned long context = 0;
        need(syscall(SYS_io_setup, 16, &context));
    } else
        exit(2);
}

int main(int count, char **words)
{
    signal(SIGUSR1, again);
    doing = count > 1 ? words[1] : doing;
    start(doing);
    say("ready", "ready");
    wait_for_death();
}
