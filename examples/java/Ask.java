import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import vlserve.vision.VisionRequest;
import vlserve.vision.VisionResponse;
import vlserve.vision.VisionServiceGrpc;

/** Asks a vlserve server about a picture over gRPC and prints the answer as it comes. */
public final class Ask {
  private static final String USAGE = "usage: Ask --image PATH [--server HOST:PORT] [PROMPT]";

  public static void main(String[] arguments) throws IOException, InterruptedException {
    String server = "localhost:50051";
    String prompt = "Describe the image";
    Path image = null;
    Iterator<String> given = List.of(arguments).iterator();
    while (given.hasNext()) {
      String argument = given.next();
      switch (argument) {
        case "--image" -> image = Path.of(given.next());
        case "--server" -> server = given.next();
        default -> prompt = argument;
      }
    }
    if (image == null) {
      System.err.println(USAGE);
      System.exit(2);
    }

    VisionRequest request =
        VisionRequest.newBuilder()
            .setImage(ByteString.copyFrom(Files.readAllBytes(image)))
            .setPrompt(prompt)
            .build();
    ManagedChannel channel = ManagedChannelBuilder.forTarget(server).usePlaintext().build();
    int status = 0;
    try {
      Iterator<VisionResponse> pieces =
          VisionServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(60, TimeUnit.SECONDS)
              .chatStream(request);
      while (pieces.hasNext()) {
        System.out.print(pieces.next().getText());
        System.out.flush();
      }
      System.out.println();
    } catch (StatusRuntimeException error) {
      System.err.println(error.getMessage());
      status = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(status);
  }
}
