/* Holds pages of known content, rewrites them when told, and proves on demand that all are what they should be.
 *
 *     writer MIB PORT
 *
 * It listens on PORT and takes lines from one connection after the other:
 *
 *     write N    rewrites the first N pages                       answers with the sum of all pages' versions
 *     busy N     from now on rewrites the first N pages over and over; 0 ends it          answers with the same
 *     check      answers "whole SUM PASSES", or names the first page that is not what it was written
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / sizeof(uint64_t), CHUNK = 64 };

static uint64_t (*pages)[WORDS];
static size_t count, busy;
static uint64_t written, passes;

static uint64_t content(size_t page, uint64_t version, size_t word)
{
	return (page * 0x9e3779b97f4a7c15u + version) * 0xbf58476d1ce4e5b9u + word;
}

static void rewrite(size_t from, size_t upto)
{
	for (size_t page = from; page < upto && page < count; page++) {
		uint64_t version = pages[page][0] + 1;
		pages[page][0] = version;
		for (size_t word = 1; word < WORDS; word++)
			pages[page][word] = content(page, version, word);
		written++;
	}
}

/* Both the pages and the count of what was written must be of the same instant. */
static void check(char *answer, size_t size)
{
	uint64_t sum = 0;
	for (size_t page = 0; page < count; page++) {
		sum += pages[page][0];
		for (size_t word = 1; word < WORDS; word++)
			if (pages[page][word] != content(page, pages[page][0], word)) {
				snprintf(answer, size, "page %zu is broken at word %zu\n", page, word);
				return;
			}
	}
	snprintf(answer, size, sum == written ? "whole %lu %lu\n" : "pages of another time: %lu of %lu\n", sum, sum == written ? passes : written);
}

static int obey(char *line, int peer)
{
	char answer[128];
	size_t number;
	if (sscanf(line, "write %zu", &number) == 1)
		rewrite(0, number);
	else if (sscanf(line, "busy %zu", &number) == 1)
		busy = number;
	else if (strncmp(line, "check", 5) != 0)
		return -1;
	if (strncmp(line, "check", 5) == 0)
		check(answer, sizeof answer);
	else
		snprintf(answer, sizeof answer, "%lu\n", written);
	return write(peer, answer, strlen(answer)) < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	count = strtoul(argv[1], NULL, 10) * 256;
	pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		return 3;
	rewrite(0, count);
	int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), peer = -1;
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listening, (void *)&here, sizeof here) < 0 || listen(listening, 8) < 0)
		return 4;
	char line[128];
	size_t have = 0, next = 0;
	for (;;) {
		struct pollfd waits = {.fd = peer < 0 ? listening : peer, .events = POLLIN};
		if (poll(&waits, 1, busy ? 0 : 1000) > 0) {
			if (peer < 0) {
				peer = accept(listening, NULL, NULL);
				have = 0;
			} else {
				ssize_t got = read(peer, line + have, sizeof line - 1 - have);
				line[have += got > 0 ? got : 0] = 0;
				if (got <= 0 || (strchr(line, '\n') && obey(line, peer) < 0) || have == sizeof line - 1) {
					close(peer);
					peer = -1;
				}
				if (strchr(line, '\n'))
					have = 0;
			}
		}
		if (busy) {
			rewrite(next, next + CHUNK < busy ? next + CHUNK : busy);
			next = next + CHUNK < busy ? next + CHUNK : 0;
			passes += next == 0;
		}
	}
}
