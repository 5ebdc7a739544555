/* hog PORT MEGABYTES RATE: a program that has so much memory, half of it random, and rewrites RATE MB of it in a second.
 *
 * It listens as soon as its memory is full. Each connection gets back the 8 bytes that it sends, or, if they begin with "GET ", an HTTP
 * answer, after which it is closed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define CONNECTIONS 64
#define ROUND_NS 5000000

static uint64_t *memory, seed = 88172645463325252ull;
static size_t pages, rate;

static uint64_t dice(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void fill(size_t page)
{
    for (size_t word = 0; word < PAGE / 16; word++)
        memory[page * (PAGE / 8) + word] = dice();
}

static void *rewrite(void *unused)
{
    struct timespec next;
    size_t page = 0, each = rate * (1 << 20) / PAGE * ROUND_NS / 1000000000;

    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        for (size_t done = 0; done < each; done++, page = (page + 1) % pages)
            fill(page);
        next.tv_nsec += ROUND_NS;
        if (next.tv_nsec >= 1000000000) {
            next.tv_nsec -= 1000000000;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    return unused;
}

static int answer(int link)
{
    static const char page[] = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    char asked[512];
    ssize_t length = read(link, asked, sizeof asked);

    if (length <= 0)
        return -1;
    if (length > 8 && !memcmp(asked, "GET ", 4)) {
        (void)!write(link, page, sizeof page - 1);
        return -1;
    }
    return write(link, asked, length) == length ? 0 : -1;
}

static int listening(int port)
{
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&all, sizeof all) || listen(listener, CONNECTIONS)) {
        perror("listen");
        exit(1);
    }
    return listener;
}

static void serve(int listener)
{
    struct pollfd links[CONNECTIONS] = {{.fd = listener, .events = POLLIN}};
    int count = 1, one = 1;

    for (;;) {
        poll(links, count, -1);
        for (int index = count - 1; index > 0; index--)
            if (links[index].revents && answer(links[index].fd)) {
                close(links[index].fd);
                links[index] = links[--count];
            }
        if (links[0].revents && count < CONNECTIONS) {
            links[count] = (struct pollfd){.fd = accept(listener, NULL, NULL), .events = POLLIN};
            setsockopt(links[count].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (links[count].fd >= 0)
                count++;
        }
    }
}

int main(int argc, char **argv)
{
    pthread_t writer;

    if (argc != 4)
        return 2;
    pages = strtoul(argv[2], NULL, 10) * (1 << 20) / PAGE;
    rate = strtoul(argv[3], NULL, 10);
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (size_t page = 0; page < pages; page++) {
        fill(page);
        memset((char *)memory + page * PAGE + PAGE / 2, page, PAGE / 2);
    }
    if (rate)
        pthread_create(&writer, NULL, rewrite, NULL);
    serve(listening(atoi(argv[1])));
}
