/* For a time-travel guest: a thread that waits for another lets it run.

   The guest has one processor, and time stands still while it works: no tick ever takes the processor from a loop that
   spins. sched_yield gives it to nobody then. And gloo's event loop tries a connection's lock and, where another thread
   has it, asks epoll again at once. A microsecond of sleep ends both; at 25 Mbit/s a full frame takes 484. Without it
   gloo never ends, and a node of ours stands still now and then for 0.2 to 0.3 s. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>

static int (*wait_in_kernel)(int, struct epoll_event *, int, int);

static void pause_briefly(void)
{
    static const struct timespec microsecond = {0, 1000};
    prctl(PR_SET_TIMERSLACK, 1); /* of this thread, and it is 50 us else */
    nanosleep(&microsecond, 0);
}

int sched_yield(void)
{
    pause_briefly();
    return 0;
}

int epoll_wait(int descriptor, struct epoll_event *events, int most, int timeout_ms)
{
    if (!wait_in_kernel) {
        wait_in_kernel = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    }
    int found = wait_in_kernel(descriptor, events, most, timeout_ms);
    if (found > 0) {
        pause_briefly();
    }
    return found;
}
