import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import loci.common.DebugTools;
import loci.common.services.ServiceFactory;
import loci.formats.ImageReader;
import loci.formats.meta.IMetadata;
import loci.formats.services.OMEXMLService;
import ome.units.UNITS;

/**
 * Reads each given file with Bio-Formats and prints one line of tab-separated key=value pairs;
 * the pixels of a window in the middle of every level go to FILE.LEVEL.raw (planes R, G, B).
 */
public final class BioFormatsProbe {
  private static final int WINDOW = 96;

  public static void main(String[] files) throws Exception {
    DebugTools.setRootLevel("OFF");
    PrintStream out = new PrintStream(System.out, true, "UTF-8");
    OMEXMLService service = new ServiceFactory().getInstance(OMEXMLService.class);
    for (String file : files) {
      StringBuilder line = new StringBuilder("file=" + file);
      try (ImageReader reader = new ImageReader()) {
        IMetadata metadata = service.createOMEXMLMetadata();
        reader.setMetadataStore(metadata);
        reader.setFlattenedResolutions(false);
        reader.setId(file);
        String xml = new loci.formats.tiff.TiffParser(file).getComment();
        line.append("\tformat=").append(reader.getFormat());
        line.append("\tvalid=").append(service.validateOMEXML(xml));
        line.append("\tmpp=").append(metadata.getPixelsPhysicalSizeX(0).value(UNITS.MICROMETER));
        line.append("\tmagnification=").append(
            metadata.getObjectiveNominalMagnification(0, 0));
        line.append("\timages=");
        for (int series = 0; series < reader.getSeriesCount(); series++) {
          line.append(series == 0 ? "" : ",").append(metadata.getImageName(series));
        }
        line.append("\trgb=").append(reader.isRGB());
        line.append("\tlevels=");
        for (int level = 0; level < reader.getResolutionCount(); level++) {
          reader.setResolution(level);
          int width = reader.getSizeX();
          int height = reader.getSizeY();
          line.append(level == 0 ? "" : ",").append(width).append('x').append(height);
          int w = Math.min(WINDOW, width);
          int h = Math.min(WINDOW, height);
          byte[] pixels = reader.openBytes(0, (width - w) / 2, (height - h) / 2, w, h);
          Files.write(Paths.get(file + "." + level + ".raw"), planar(reader, pixels, w * h));
        }
      }
      out.println(line);
    }
  }

  private static byte[] planar(ImageReader reader, byte[] pixels, int count) {
    if (!reader.isInterleaved()) {
      return pixels;
    }
    byte[] planes = new byte[pixels.length];
    int channels = pixels.length / count;
    for (int i = 0; i < count; i++) {
      for (int c = 0; c < channels; c++) {
        planes[c * count + i] = pixels[i * channels + c];
      }
    }
    return planes;
  }
}
