/* Loads ZooKeeper with its asynchronous C client: so many operations in flight over one connection, the next begins when
 * one is answered. get is a sync and a get behind it, which the server answers in order.
 *
 * usage: zookeeper HOST:PORT put|get|fill IN_FLIGHT WARM_UP_S DURATION_S KEYS VALUE_BYTES
 *
 * The last line of output is JSON with the fields that benchmarks/workload.py calls Loaded. All but the start runs in
 * the client's completion thread, so nothing here needs a lock once `begin` has been called for all. */
#define THREADED
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

enum operation { PUT, GET, FILL };

#define PARENT "/bench"
#define MAX_LATENCIES (16 * 1024 * 1024)

static struct {
    zhandle_t *handle;
    enum operation operation;
    int keys, value_bytes, next_key;
    char *value;
    double from, end; /* of the measured time */
    double *latencies;
    size_t count, total, errors;
    volatile int running; /* operations under way */
} load;

struct call {
    double began;
};

static double seconds_now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void begin(struct call *call);

static void ended(int status, const void *context) {
    struct call *call = (struct call *)context;
    double now = seconds_now();
    load.total++;
    if (status != ZOK)
        load.errors++;
    else if (now >= load.from && now < load.end && load.count < MAX_LATENCIES)
        load.latencies[load.count++] = (now - call->began) * 1e6;
    begin(call);
}

static void ended_stat(int status, const struct Stat *stat, const void *context) {
    (void)stat;
    ended(status, context);
}

static void ended_string(int status, const char *path, const void *context) {
    (void)path;
    ended(status, context);
}

static void ended_data(int status, const char *value, int length, const struct Stat *stat, const void *context) {
    (void)value, (void)length, (void)stat;
    ended(status, context);
}

static void synced(int status, const char *path, const void *context) {
    (void)path, (void)context;
    if (status != ZOK)
        load.errors++;
}

static void begin(struct call *call) {
    char path[32];
    int status, key;
    call->began = seconds_now();
    if (load.operation == FILL ? load.next_key >= load.keys : call->began >= load.end) {
        load.running--;
        return;
    }
    key = load.operation == FILL ? load.next_key++ : rand() % load.keys;
    snprintf(path, sizeof path, PARENT "/%09d", key); /* 16 bytes */
    if (load.operation == FILL)
        status = zoo_acreate(load.handle, path, load.value, load.value_bytes, &ZOO_OPEN_ACL_UNSAFE, 0, ended_string, call);
    else if (load.operation == PUT)
        status = zoo_aset(load.handle, path, load.value, load.value_bytes, -1, ended_stat, call);
    else {
        zoo_async(load.handle, path, synced, NULL);
        status = zoo_aget(load.handle, path, 0, ended_data, call);
    }
    if (status != ZOK) { /* not even queued: the connection is gone */
        load.errors++;
        load.running--;
    }
}

/* The first operations begin in the completion thread, too: it is where `load` lives. */
static void start(int status, const struct Stat *stat, const void *context) {
    (void)status, (void)stat;
    begin((struct call *)context);
}

static int ascending(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double quantile(double share) {
    return load.count ? load.latencies[(size_t)(share * (load.count - 1))] : 0;
}

int main(int argc, char **argv) {
    if (argc != 8)
        return 2;
    int in_flight = atoi(argv[3]);
    double warm_up = atof(argv[4]), duration = atof(argv[5]);
    load.operation = !strcmp(argv[2], "fill") ? FILL : !strcmp(argv[2], "get") ? GET : PUT;
    load.keys = atoi(argv[6]);
    load.value_bytes = atoi(argv[7]);
    load.value = malloc(load.value_bytes + 1);
    memset(load.value, 'v', load.value_bytes);
    load.latencies = malloc(MAX_LATENCIES * sizeof *load.latencies);
    srand(getpid());
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    load.handle = zookeeper_init(argv[1], NULL, 30000, NULL, NULL, 0);
    for (int tries = 0; tries < 1000 && zoo_state(load.handle) != ZOO_CONNECTED_STATE; tries++)
        usleep(10000);
    if (zoo_state(load.handle) != ZOO_CONNECTED_STATE) {
        fprintf(stderr, "cannot reach %s\n", argv[1]);
        return 1;
    }
    if (load.operation == FILL)
        zoo_create(load.handle, PARENT, "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    load.from = seconds_now() + warm_up;
    load.end = load.from + duration;
    load.running = in_flight;
    struct call *calls = calloc(in_flight, sizeof *calls);
    for (int number = 0; number < in_flight; number++)
        zoo_aexists(load.handle, "/", 0, start, &calls[number]);
    while (load.running > 0 && (load.operation == FILL || seconds_now() < load.end + 10))
        usleep(5000);
    qsort(load.latencies, load.count, sizeof *load.latencies, ascending);
    printf("{\"ops_per_s\": %f, \"p50_us\": %f, \"p99_us\": %f, \"p999_us\": %f, \"max_us\": %f, \"errors\": %zu, "
           "\"total\": %zu}\n",
           duration > 0 ? load.count / duration : 0.0, quantile(.5), quantile(.99), quantile(.999), quantile(1),
           load.errors, load.total);
    return 0;
}
